"""Store: sagas, their steps and their timers, as rows of the service that runs them.

A saga is keyed by the command that started it; what its users call it is unique only among the sagas of one
name. A step's row holds what was asked and, later, how it ended. Both have an ordinal from the saga's own
counter, so that the history is fed to `advance` in exactly the order in which it was recorded.

Locks     a saga's row first, then its steps and timers: whoever acts on a saga waits for it, or passes it by.

Next: sagas.orchestrator
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, Table, Text, delete, insert, or_, select, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from eventplat.hashing import bucket_of
from eventplat.messages.envelope import Envelope
from eventplat.storage.tables import UUID, bucket, now_us, platform

TimerKind = Literal["step", "again", "resume", "deadline"]

_OPEN = text("ended_us IS NULL")
_SENDS = text("command_id IS NOT NULL")

saga = Table(
    "eventplat_saga",
    platform,
    Column("command_id", UUID, primary_key=True),        # what started it: the key of its steps and timers
    bucket(),
    Column("name", Text, nullable=False),
    Column("id", Text, nullable=False),                  # what its users call it
    Column("version", Integer, nullable=False),
    Column("state", Text, nullable=False),               # running, compensating, completed, compensated, operator
    Column("type", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("correlation_id", UUID, nullable=False),
    Column("reply_to", Text, nullable=True),
    Column("grant", Text, nullable=True),
    Column("started_us", BigInteger, nullable=False),
    Column("deadline_us", BigInteger, nullable=False),
    Column("cancelled_us", BigInteger, nullable=True),
    Column("cancelled_position", BigInteger, nullable=True),
    Column("ended_us", BigInteger, nullable=True),
    Column("outcome_type", Text, nullable=True),
    Column("outcome", LargeBinary, nullable=True),
    Column("problem", Text, nullable=True),
    Column("revision", BigInteger, nullable=False),      # the next ordinal of its history
    Index("eventplat_saga_id", "id", "name", unique=True),
    Index("eventplat_saga_open", "state", "started_us", postgresql_where=_OPEN, sqlite_where=_OPEN),
)

saga_step = Table(
    "eventplat_saga_step",
    platform,
    Column("saga_command", UUID, primary_key=True),
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
    Index("eventplat_saga_step_command", "command_id", unique=True, postgresql_where=_SENDS, sqlite_where=_SENDS),
    Index("eventplat_saga_step_path", "saga_command", "path", unique=True),
)

timer = Table(
    "eventplat_timer",
    platform,
    Column("id", UUID, primary_key=True),
    bucket(),
    Column("due_us", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),                # TimerKind
    Column("subject", UUID, nullable=False),             # the command that started the saga
    Column("position", Text, nullable=True),             # the step's path
    Index("eventplat_timer_due", "due_us"),
    Index("eventplat_timer_subject", "subject", "position"),
)


@dataclass(frozen=True, slots=True)
class Timer:
    """A timer of a saga.

    Attributes:
        kind: step: its time is up; again: ask a query once more; resume: an answer was recorded by an instance
            that does not know the saga; deadline: of the whole saga.
        subject: The command that started the saga.
        path: Of the step.
    """

    id: str
    kind: TimerKind
    subject: str
    path: str | None
    due_us: int


async def start(connection: AsyncConnection, saga_id: str, name: str, version: int, envelope: Envelope, deadline_us: int) -> bool:
    """Insert a saga; False where this name and id have one."""
    row = postgresql.insert(saga).values(
        command_id=envelope.id, bucket=bucket_of(saga_id), name=name, id=saga_id, version=version, state="running",
        type=envelope.type, body=envelope.body, correlation_id=envelope.correlation_id, reply_to=envelope.reply_to,
        grant=envelope.grant, started_us=now_us(), deadline_us=now_us() + deadline_us, revision=0,
    )  # fmt: skip
    return (await connection.execute(row.on_conflict_do_nothing().returning(saga.c.id))).first() is not None


async def lock(connection: AsyncConnection, command_id: str, *, skip_locked: bool = False) -> Any | None:
    """The saga's row and `is_overdue`, locked until this transaction ends; None as well where it is locked and to be skipped."""
    overdue = (saga.c.deadline_us <= now_us()).label("is_overdue")
    found = select(saga, overdue).where(saga.c.command_id == command_id).with_for_update(skip_locked=skip_locked)
    return (await connection.execute(found)).first()


async def find(connection: AsyncConnection, saga_id: str) -> Sequence[Any]:
    """The sagas that their users call `saga_id`, of all names, for reading; oldest first."""
    return (await connection.execute(select(saga).where(saga.c.id == saga_id).order_by(saga.c.started_us))).all()


async def command_of(connection: AsyncConnection, name: str, saga_id: str) -> str | None:
    """The command that started the saga of this name and id."""
    found: str | None = (await connection.execute(select(saga.c.command_id).where(saga.c.id == saga_id, saga.c.name == name))).scalar()
    return found


async def waiting_for_operator(connection: AsyncConnection, names: Sequence[str]) -> list[str]:
    """Which sagas of these names stand in the operator state and are in time, by their commands, oldest first."""
    found = (
        select(saga.c.command_id)
        .where(saga.c.state == "operator", saga.c.ended_us.is_(None), saga.c.name.in_(names), saga.c.deadline_us > now_us())
        .order_by(saga.c.started_us)
    )
    return [row.command_id for row in await connection.execute(found)]


async def by_command(connection: AsyncConnection, command_id: str) -> Any | None:
    """The row of the saga that `command_id` started, for reading."""
    return (await connection.execute(select(saga).where(saga.c.command_id == command_id))).first()


async def saga_of_step(connection: AsyncConnection, command_id: str) -> tuple[str, str] | None:
    """The saga, by the command that started it, and the path whose step sent `command_id`."""
    found = select(saga_step.c.saga_command, saga_step.c.path).where(saga_step.c.command_id == command_id)
    row = (await connection.execute(found)).first()
    return None if row is None else (row.saga_command, row.path)


async def steps(connection: AsyncConnection, saga_command: str) -> Sequence[Any]:
    """The saga's step rows, in the order of asking."""
    found = select(saga_step).where(saga_step.c.saga_command == saga_command).order_by(saga_step.c.position)
    return (await connection.execute(found)).all()


async def add_steps(connection: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    """Record what was asked."""
    if rows:
        await connection.execute(insert(saga_step), list(rows))


async def settle_step(
    connection: AsyncConnection, saga_command: str, path: str, position: int, outcome_type: str, outcome: bytes, at_us: int
) -> None:
    """Record how a step ended, also in the place of an answer that did not end it."""
    settled = update(saga_step).where(saga_step.c.saga_command == saga_command, saga_step.c.path == path)
    await connection.execute(
        settled.values(state="settled", settled_us=at_us, settled_position=position, outcome_type=outcome_type, outcome=outcome)
    )


async def reopen_step(connection: AsyncConnection, saga_command: str, path: str) -> None:
    """The step waits for its answer again: it is asked once more."""
    reopened = update(saga_step).where(saga_step.c.saga_command == saga_command, saga_step.c.path == path)
    await connection.execute(
        reopened.values(state="asked", settled_us=None, settled_position=None, outcome_type=None, outcome=None)
    )


async def save(connection: AsyncConnection, command_id: str, **values: Any) -> None:
    """Update the saga's row."""
    await connection.execute(update(saga).where(saga.c.command_id == command_id).values(**values))


async def add_timer(
    connection: AsyncConnection, timer_id: str, kind: TimerKind, of: Any, *, path: str | None = None, after_us: int = 0
) -> None:
    """Set a timer of the saga whose row is `of`, due in `after_us` on the database's clock."""
    await connection.execute(
        insert(timer).values(
            id=timer_id, bucket=of.bucket, kind=kind, subject=of.command_id, position=path, due_us=now_us() + after_us
        )
    )


async def clear_timers(connection: AsyncConnection, saga_command: str, path: str) -> None:
    """Forget the timers of one step."""
    await connection.execute(delete(timer).where(timer.c.subject == saga_command, timer.c.position == path))


async def clear_all_timers(connection: AsyncConnection, saga_command: str) -> None:
    """Forget every timer of a saga."""
    await connection.execute(delete(timer).where(timer.c.subject == saga_command))


async def clear_deadline(connection: AsyncConnection, saga_command: str) -> None:
    """Forget a saga's deadline."""
    gone = delete(timer).where(timer.c.subject == saga_command, timer.c.position.is_(None), timer.c.kind == "deadline")
    await connection.execute(gone)


async def next_timers(connection: AsyncConnection, names: Sequence[str], *, limit: int) -> list[Timer]:
    """The next timers of sagas of these names, earliest first. While a saga waits for the operator only its deadline runs."""
    found = (
        select(timer)
        .join(saga, saga.c.command_id == timer.c.subject)
        .where(saga.c.name.in_(names), or_(saga.c.state != "operator", timer.c.kind == "deadline"))
        .order_by(timer.c.due_us)
        .limit(limit)
    )
    return [Timer(row.id, row.kind, row.subject, row.position, row.due_us) for row in await connection.execute(found)]


async def claim_timer(connection: AsyncConnection, timer_id: str) -> bool:
    """Take a timer: what it stands for happens in this transaction, or it comes again; False where it is gone."""
    return (await connection.execute(delete(timer).where(timer.c.id == timer_id).returning(timer.c.id))).first() is not None
