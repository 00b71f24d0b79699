"""Stuck: which commands a saga still waits for after it was told that they failed.

A command that is out of attempts answers `failed`. Where its step must be done (an undo, a call past the pivot) the saga
stands in the operator state until a later answer takes the place of that one; everything else has gone on: it undoes, or has
ended, and an effect now would stand there without anybody who knows of it. So a dead letter may be replayed only while
its saga stands there for that very step.

Next: sagas.store
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from eventplat.sagas import store
from eventplat.sagas.history import stuck_paths
from eventplat.sagas.steps import StepRow, history_of


async def why_not_awaited(connection: AsyncConnection, command_id: str) -> str | None:
    """Why the saga that sent `command_id` has no use for its answer any more; None where it waits for it.

    Args:
        connection: To the database of the service whose saga it is.
    """
    place = await store.saga_of_step(connection, command_id)
    if place is None:
        return "no step of a saga there has sent it"
    command, path = place
    row = await store.by_command(connection, command)
    if row is None:
        return "its saga is gone"
    saga = f"its saga {row.name} {row.id!r}"
    if row.ended_us is not None:
        return f"{saga} is {row.state}: it would have an effect that nobody knows of"
    steps = [StepRow.read(step) for step in await store.steps(connection, command)]
    if path in stuck_paths(history_of(steps)):
        return None if row.state == "operator" else f"{saga} goes on by itself ({row.state})"
    if any(step.asked.path == path and step.answered is None for step in steps):
        return f"{saga} has not heard yet that it failed: try again in a moment"
    return f"{saga} was told that it failed and went on ({row.state}) without it"
