"""Store: sagas, their steps and their timers, as rows of the service that runs them.

A step's row holds what was asked and, later, how it ended. Both have an ordinal from the saga's own
counter, so that the history is fed to `advance` in exactly the order in which it was recorded.

Next: sagas.orchestrator
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, Table, Text, delete, insert, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from eventplat.hashing import bucket_of
from eventplat.messages.envelope import Envelope
from eventplat.storage.tables import UUID, bucket, now_us, platform

saga = Table(
    "eventplat_saga",
    platform,
    Column("id", Text, primary_key=True),
    bucket(),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("state", Text, nullable=False),               # running, compensating, completed, compensated, operator
    Column("command_id", UUID, nullable=False, unique=True),
    Column("type", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("correlation_id", UUID, nullable=False),
    Column("reply_to", Text, nullable=True),
    Column("grant", Text, nullable=True),
    Column("started_us", BigInteger, nullable=False),
    Column("deadline_us", BigInteger, nullable=False),
    Column("ended_us", BigInteger, nullable=True),
    Column("outcome_type", Text, nullable=True),
    Column("outcome", LargeBinary, nullable=True),
    Column("problem", Text, nullable=True),
    Column("revision", BigInteger, nullable=False),      # the next ordinal of its history
)

saga_step = Table(
    "eventplat_saga_step",
    platform,
    Column("saga_id", Text, primary_key=True),
    Column("position", Integer, primary_key=True),       # ordinal of the asking
    Column("path", Text, nullable=False),
    Column("kind", Text, nullable=False),
    bucket(),
    Column("command_id", UUID, nullable=True),
    Column("record", Text, nullable=False),              # JSON of what was asked
    Column("state", Text, nullable=False),               # asked, settled
    Column("asked_us", BigInteger, nullable=False),
    Column("settled_us", BigInteger, nullable=True),
    Column("settled_position", Integer, nullable=True),  # ordinal of the answer
    Column("outcome_type", Text, nullable=True),
    Column("outcome", LargeBinary, nullable=True),
)

timer = Table(
    "eventplat_timer",
    platform,
    Column("id", UUID, primary_key=True),
    bucket(),
    Column("due_us", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),                # step, deadline
    Column("subject", Text, nullable=False),             # the saga
    Column("position", Text, nullable=True),             # the step's path
)


@dataclass(frozen=True, slots=True)
class Timer:
    """A timer that was due and is this transaction's to act on."""

    kind: str
    saga_id: str
    path: str | None


async def start(connection: AsyncConnection, saga_id: str, name: str, version: int, envelope: Envelope, deadline_us: int) -> bool:
    """Insert a saga; False where this id has one."""
    row = postgresql.insert(saga).values(
        id=saga_id, bucket=bucket_of(saga_id), name=name, version=version, state="running", command_id=envelope.id,
        type=envelope.type, body=envelope.body, correlation_id=envelope.correlation_id, reply_to=envelope.reply_to,
        grant=envelope.grant, started_us=now_us(), deadline_us=now_us() + deadline_us, revision=0,
    )  # fmt: skip
    return (await connection.execute(row.on_conflict_do_nothing().returning(saga.c.id))).first() is not None


async def lock(connection: AsyncConnection, saga_id: str) -> Any | None:
    """The saga's row, locked until this transaction ends."""
    return (await connection.execute(select(saga).where(saga.c.id == saga_id).with_for_update())).first()


async def find(connection: AsyncConnection, saga_id: str) -> Any | None:
    """The saga's row, for reading."""
    return (await connection.execute(select(saga).where(saga.c.id == saga_id))).first()


async def ids_in_state(connection: AsyncConnection, state: str, names: Sequence[str]) -> list[str]:
    """Ids of the sagas of these names that stand in `state`, oldest first."""
    found = select(saga.c.id).where(saga.c.state == state, saga.c.name.in_(names)).order_by(saga.c.started_us)
    return [row.id for row in await connection.execute(found)]


async def by_command(connection: AsyncConnection, command_id: str) -> Any | None:
    """The row of the saga that `command_id` started."""
    return (await connection.execute(select(saga).where(saga.c.command_id == command_id))).first()


async def saga_of_step(connection: AsyncConnection, command_id: str) -> tuple[str, str] | None:
    """The saga and path whose step sent `command_id`."""
    row = (await connection.execute(select(saga_step.c.saga_id, saga_step.c.path).where(saga_step.c.command_id == command_id))).first()
    return None if row is None else (row.saga_id, row.path)


async def steps(connection: AsyncConnection, saga_id: str) -> Sequence[Any]:
    """The saga's step rows, in the order of asking."""
    return (await connection.execute(select(saga_step).where(saga_step.c.saga_id == saga_id).order_by(saga_step.c.position))).all()


async def add_steps(connection: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    """Record what was asked."""
    if rows:
        await connection.execute(insert(saga_step), list(rows))


async def settle_step(
    connection: AsyncConnection, saga_id: str, path: str, position: int, outcome_type: str, outcome: bytes, at_us: int
) -> bool:
    """Record how a step ended; False where it had ended already."""
    settled = (
        update(saga_step)
        .where(saga_step.c.saga_id == saga_id, saga_step.c.path == path, saga_step.c.state == "asked")
        .values(state="settled", settled_us=at_us, settled_position=position, outcome_type=outcome_type, outcome=outcome)
    )
    return (await connection.execute(settled.returning(saga_step.c.path))).first() is not None


async def save(connection: AsyncConnection, saga_id: str, **values: Any) -> None:
    """Update the saga's row."""
    await connection.execute(update(saga).where(saga.c.id == saga_id).values(**values))


async def add_timers(connection: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    """Set timers: rows with id, kind, subject, position and `after_us` from now."""
    for row in rows:
        after_us = row["after_us"]
        values = {name: value for name, value in row.items() if name != "after_us"}
        await connection.execute(insert(timer).values(bucket=bucket_of(row["subject"]), due_us=now_us() + after_us, **values))


async def clear_timers(connection: AsyncConnection, saga_id: str, path: str | None = None) -> None:
    """Forget a saga's timers, or those of one step."""
    gone = delete(timer).where(timer.c.subject == saga_id)
    await connection.execute(gone if path is None else gone.where(timer.c.position == path))


async def due_timers(connection: AsyncConnection, *, limit: int) -> list[str]:
    """Ids of timers that are due, earliest first."""
    found = select(timer.c.id).where(timer.c.due_us <= now_us()).order_by(timer.c.due_us).limit(limit)
    return [row.id for row in await connection.execute(found)]


async def next_timer_us(connection: AsyncConnection) -> int | None:
    """When the next timer is due, on the database's clock."""
    due: int | None = (await connection.execute(select(timer.c.due_us).order_by(timer.c.due_us).limit(1))).scalar()
    return due


async def claim_timer(connection: AsyncConnection, timer_id: str) -> Timer | None:
    """Take a timer: it fires in this transaction or comes again; None where another took it."""
    gone = delete(timer).where(timer.c.id == timer_id).returning(timer.c.kind, timer.c.subject, timer.c.position)
    row = (await connection.execute(gone)).first()
    return None if row is None else Timer(row.kind, row.subject, row.position)
