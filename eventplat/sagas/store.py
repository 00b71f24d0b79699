"""Store: sagas, their steps and their timers, as rows of the service that runs them.

A saga is keyed by the command that started it; what its users call it is unique only among the sagas of one
name. A step's row holds what was asked and, later, how it ended. Both have an ordinal from the saga's own
counter, so that the history is fed to `advance` in exactly the order in which it was recorded.

Locks     a saga's row first, then its steps and timers: whoever acts on a saga waits for it, or passes it by.
Changes   are gathered and written once, when the decision stands: a step that was asked and answered in one transaction
          is one row. The round trips are the cost.

Next: sagas.orchestrator
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Column,
    Executable,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    bindparam,
    delete,
    insert,
    literal,
    or_,
    select,
    text,
    update,
)  # fmt: skip
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


class Changes:
    """What one transaction changes of one saga, until it is written.

    Args:
        saga: By the command that started it.
    """

    def __init__(self, saga: str, bucket: int) -> None:
        self._saga, self._bucket = saga, bucket
        self._forget()

    def ask(self, row: dict[str, Any]) -> None:
        """A new step."""
        self._asked[row["path"]] = {**row, **_UNSETTLED}

    def settle(self, path: str, position: int, outcome_type: str, outcome: bytes, at_us: int) -> None:
        """How a step ended, also in the place of an answer that did not end it; its timers go."""
        self._put(path, {
            "state": "settled", "settled_us": at_us, "settled_position": position, "outcome_type": outcome_type, "outcome": outcome,
        })  # fmt: skip

    def reopen(self, path: str) -> None:
        """The step waits for its answer again: it is asked once more."""
        self._put(path, _UNSETTLED)

    def set_timer(self, timer_id: str, kind: TimerKind, *, path: str | None = None, after_us: int = 0) -> None:
        """A timer, due in `after_us` on the database's clock."""
        self._timers.append({
            "id": timer_id, "bucket": self._bucket, "kind": kind, "subject": self._saga, "position": path, "after_us": after_us,
        })  # fmt: skip

    def set(self, **values: Any) -> None:
        """Columns of the saga's row."""
        self._values |= values

    async def write(self, connection: AsyncConnection, *, is_last: bool = False) -> None:
        """Write it all; what is added later is written by the next call.

        Args:
            is_last: The saga has ended: it has no timers any more.
        """
        if self._asked:
            await _execute(connection, _ADD_STEPS, list(self._asked.values()))
        if self._settled:
            await _execute(connection, _SETTLE_STEP, [{"b_saga": self._saga, "b_path": path, **row} for path, row in self._settled.items()])
        if self._settled and not is_last:
            await _execute(connection, _CLEAR_TIMERS, [{"b_subject": self._saga, "b_path": path} for path in self._settled])
        if self._timers and not is_last:
            await _execute(connection, _ADD_TIMERS, self._timers)
        if is_last:
            await connection.execute(_CLEAR_ALL_TIMERS, {"b_subject": self._saga})
        if self._values:
            await connection.execute(update(saga).where(_IS_SAGA).values(self._values), {"b_saga": self._saga})
        self._forget()

    def _forget(self) -> None:
        self._asked: dict[str, dict[str, Any]] = {}       # by path: rows of new steps
        self._settled: dict[str, dict[str, Any]] = {}     # by path: how steps ended, or that they wait again; their timers go
        self._timers: list[dict[str, Any]] = []
        self._values: dict[str, Any] = {}

    def _put(self, path: str, ending: dict[str, Any]) -> None:
        self._timers = [each for each in self._timers if each["position"] != path]
        if path in self._asked:  # nobody has seen it, and it has no timers yet
            self._asked[path] |= ending
            return
        self._settled[path] = ending


async def start(connection: AsyncConnection, saga_id: str, name: str, version: int, envelope: Envelope, deadline_us: int) -> Any | None:
    """Insert a saga; returns its row as `lock` does, or None where this name and id have one."""
    row = {
        "command_id": envelope.id, "bucket": bucket_of(saga_id), "name": name, "id": saga_id, "version": version, "type": envelope.type,
        "body": envelope.body, "correlation_id": envelope.correlation_id, "reply_to": envelope.reply_to, "grant": envelope.grant,
        "within_us": deadline_us,
    }  # fmt: skip
    return (await connection.execute(_START, row)).first()


async def lock(connection: AsyncConnection, command_id: str, *, skip_locked: bool = False) -> Any | None:
    """The saga's row and `is_overdue`, locked until this transaction ends; None as well where it is locked and to be skipped."""
    return (await connection.execute(_LOCK_OR_SKIP if skip_locked else _LOCK, {"b_saga": command_id})).first()


async def lock_of_step(connection: AsyncConnection, command_id: str) -> Any | None:
    """As `lock`, of the saga whose step sent `command_id`; with `path`, the step's."""
    return (await connection.execute(_LOCK_OF_STEP, {"b_command": command_id})).first()


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
    """The saga, by the command that started it, and the path whose step sent `command_id`; for reading."""
    found = select(saga_step.c.saga_command, saga_step.c.path).where(saga_step.c.command_id == command_id)
    row = (await connection.execute(found)).first()
    return None if row is None else (row.saga_command, row.path)


async def steps(connection: AsyncConnection, saga_command: str) -> Sequence[Any]:
    """The saga's step rows, in the order of asking."""
    return (await connection.execute(_STEPS, {"b_saga": saga_command})).all()


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


async def _execute(connection: AsyncConnection, statement: Executable, rows: list[dict[str, Any]]) -> None:
    """One row by the ordinary path, whose prepared statement is kept."""
    await connection.execute(statement, rows[0] if len(rows) == 1 else rows)


_UNSETTLED: dict[str, Any] = {"state": "asked", "settled_us": None, "settled_position": None, "outcome_type": None, "outcome": None}
# Made once: to build a statement anew costs as much as to run it
_is_overdue = (saga.c.deadline_us <= now_us()).label("is_overdue")
_IS_SAGA = saga.c.command_id == bindparam("b_saga", type_=saga.c.command_id.type)
_START = (
    postgresql.insert(saga)
    .values(
        state="running", started_us=now_us(), deadline_us=now_us() + bindparam("within_us", type_=BigInteger()), revision=0,
        **{name: bindparam(name) for name in (
            "command_id", "bucket", "name", "id", "version", "type", "body", "correlation_id", "reply_to", "grant",
        )},
    )
    .on_conflict_do_nothing()
    .returning(saga, literal(False).label("is_overdue"))
)  # fmt: skip
_LOCK = select(saga, _is_overdue).where(_IS_SAGA).with_for_update()
_LOCK_OR_SKIP = select(saga, _is_overdue).where(_IS_SAGA).with_for_update(skip_locked=True)
_LOCK_OF_STEP = (
    select(saga, _is_overdue, saga_step.c.path)
    .join_from(saga_step, saga, saga.c.command_id == saga_step.c.saga_command)
    .where(saga_step.c.command_id == bindparam("b_command", type_=saga_step.c.command_id.type))
    .with_for_update(of=saga)
)
_STEPS = (
    select(saga_step)
    .where(saga_step.c.saga_command == bindparam("b_saga", type_=saga_step.c.saga_command.type))
    .order_by(saga_step.c.position)
)
_ADD_STEPS = insert(saga_step)
_SETTLE_STEP = (
    update(saga_step)
    .where(
        saga_step.c.saga_command == bindparam("b_saga", type_=saga_step.c.saga_command.type),
        saga_step.c.path == bindparam("b_path", type_=Text()),
    )
    .values({name: bindparam(name) for name in _UNSETTLED})
)
_ADD_TIMERS = insert(timer).values(
    due_us=now_us() + bindparam("after_us", type_=BigInteger()),
    **{column.name: bindparam(column.name) for column in timer.c if column.name != "due_us"},
)
_of_saga = timer.c.subject == bindparam("b_subject", type_=timer.c.subject.type)
_CLEAR_TIMERS = delete(timer).where(_of_saga, timer.c.position == bindparam("b_path", type_=Text()))
_CLEAR_ALL_TIMERS = delete(timer).where(_of_saga)
