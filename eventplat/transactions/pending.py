"""Pending: messages that are not settled, and run from the database.

One row per (handler, message id), in a state an operator can see:

retry      an attempt failed; it runs again when due
isolated   the broker has handed it out three times and nobody acked: it may kill its process, so it runs alone
held       ordered, and the one before it has not come yet; due when it has waited for too long (`transactions.held`)
dead       out of attempts, or not readable: kept with its errors until it is replayed or discarded

Nothing is republished: any instance runs a due row. Its attempt is counted first, in a transaction of its
own, so that a message that kills its process runs out of attempts too.

Next: transactions.unit_of_work
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Index,
    Integer,
    LargeBinary,
    Select,
    Table,
    Text,
    bindparam,
    delete,
    func,
    literal_column,
    select,
    text,
    tuple_,
    union_all,
    update,
)  # fmt: skip
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from eventplat.messages.codec import Properties, to_envelope, to_properties
from eventplat.messages.envelope import Envelope
from eventplat.storage.tables import UUID, bucket, now_us, one_of, platform
from eventplat.transactions.attempts import Entry, with_entry
from eventplat.transactions.stored import properties_text
from eventplat.transactions.stored import to_properties as read_properties

PendingState = Literal["retry", "isolated", "held", "dead"]

ISOLATED = "isolated"   # as the error of a held row: it was isolated, and will be again

_HELD = text("state = 'held'")

pending = Table(
    "eventplat_pending",
    platform,
    Column("handler", Text, primary_key=True),
    Column("message_id", UUID, primary_key=True),
    bucket(),
    Column("state", Text, nullable=False),
    Column("due_us", BigInteger, nullable=True),
    Column("attempts", Integer, nullable=False),
    Column("exchange", Text, nullable=False),
    Column("routing_key", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("key", Text, nullable=True),
    Column("source", Text, nullable=True),
    Column("stream", Text, nullable=True),
    Column("seq", BigInteger, nullable=True),
    Column("prev", BigInteger, nullable=True),
    Column("properties", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("errors", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("error", Text, nullable=True),                # of the newest error: its type,
    Column("place", Text, nullable=True),                # where in the user's code it was raised,
    Column("failed_us", BigInteger, nullable=True),      # and when
    Index("eventplat_pending_due", "state", "due_us"),
    Index("eventplat_pending_held", "handler", "stream", "key", "seq", postgresql_where=_HELD, sqlite_where=_HELD),
    Index("eventplat_pending_message", "message_id"),
)


@dataclass(frozen=True, slots=True)
class Pending:
    """One row, read."""

    handler: str
    message_id: str
    state: PendingState
    attempts: int
    properties: Properties
    body: bytes
    errors: tuple[Entry, ...]      # and what operators did, oldest first (`transactions.attempts`)
    due_us: int | None = None
    type: str = ""
    key: str | None = None
    error: str | None = None       # the newest error's type
    place: str | None = None       # where in the user's code it was raised, as "services.stock.service.reserve:41"
    failed_us: int | None = None
    created_us: int = 0

    @property
    def is_parked(self) -> bool:
        """Whether it came as something that is no message, and is kept under an id of our own."""
        return self.properties.message_id != self.message_id

    def envelope(self) -> Envelope:
        """The message as it was received.

        Raises:
            Malformed: It was parked because it cannot be read.
        """
        return to_envelope(self.properties, self.body)


async def record(
    connection: AsyncConnection,
    handler: str,
    envelope: Envelope,
    *,
    state: PendingState,
    attempts: int,
    wait_us: int | None,
    error: Entry | None,
    exchange: str = "",
    routing_key: str = "",
) -> None:
    """Insert or update the row of this message: what happened, and when it runs next.

    Args:
        wait_us: Microseconds until it is due, on the database's clock; None: never by itself.
        error: As `attempts.error_record` makes it; appended to the row's history.
    """
    errors = await _errors(connection, handler, envelope.id)
    values = {
        "state": state,
        "attempts": attempts,
        "due_us": None if wait_us is None else now_us() + wait_us,
        "errors": json.dumps(with_entry(errors, error)),
        **({} if error is None else _newest(error)),
    }
    row = postgresql.insert(pending).values(
        **columns_of(handler, envelope), exchange=exchange, routing_key=routing_key, created_us=envelope.created_us or now_us(), **values
    )
    await connection.execute(row.on_conflict_do_update(index_elements=[pending.c.handler, pending.c.message_id], set_=values))


async def park(
    connection: AsyncConnection, handler: str, message_id: str, properties: Properties, body: bytes, *,
    exchange: str, routing_key: str, error: Entry,
) -> None:  # fmt: skip
    """Keep bytes that are not a message as dead, under an id of our own, exactly as they came."""
    row = postgresql.insert(pending).values(
        handler=handler, message_id=message_id, bucket=0, state="dead", due_us=None, attempts=0, exchange=exchange, routing_key=routing_key,
        type=(properties.type or "").replace("\0", "\ufffd"), key=None, source=None, stream=None, seq=None, prev=None,
        properties=_readable(properties), body=body, errors=json.dumps([error]), created_us=now_us(), **_newest(error),
    )  # fmt: skip
    await connection.execute(row.on_conflict_do_nothing())


async def count_due(
    connection: AsyncConnection, handlers: Sequence[str], state: PendingState, *, lease_us: int, limit: int
) -> list[Pending]:
    """Take up to `limit` due rows: their attempt counted, and nobody else's for `lease_us` microseconds."""
    due = (
        select(pending.c.handler, pending.c.message_id)
        .where(stands_as(state), pending.c.due_us <= now_us(), pending.c.handler.in_(handlers))
        .order_by(pending.c.due_us, pending.c.seq)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    keys = [(row.handler, row.message_id) for row in await connection.execute(due)]
    if not keys:
        return []
    counted = (
        update(pending)
        .where(tuple_(pending.c.handler, pending.c.message_id).in_(keys))
        .values(attempts=pending.c.attempts + 1, due_us=now_us() + lease_us)
        .returning(*pending.c)
    )
    return [read(row) for row in await connection.execute(counted)]


async def lock(connection: AsyncConnection, row: Pending) -> bool:
    """Lock the row for this transaction; False where it is gone, or another runs it."""
    locked = (
        select(pending.c.attempts)
        .where(pending.c.handler == row.handler, pending.c.message_id == row.message_id, pending.c.state == row.state)
        .with_for_update(skip_locked=True)
    )
    return (await connection.execute(locked)).first() is not None


async def take_many(connection: AsyncConnection, rows: Sequence[Pending]) -> frozenset[str]:
    """Lock and delete rows of one handler and state; returns the message ids of those that were there, and that no other one runs."""
    ids = [row.message_id for row in rows]
    mine = (pending.c.handler == rows[0].handler, one_of(connection, pending.c.message_id, ids), pending.c.state == rows[0].state)
    locked = select(pending.c.message_id).where(*mine).order_by(pending.c.message_id).with_for_update(skip_locked=True)
    taken = list((await connection.execute(locked)).scalars())
    gone = delete(pending).where(pending.c.handler == rows[0].handler, one_of(connection, pending.c.message_id, taken))
    await connection.execute(gone)
    return frozenset(taken)


async def mark_isolated(connection: AsyncConnection, handler: str, message_id: str) -> None:
    """Remember of a message that has just been held that it runs alone."""
    held = (stands_as("held"), pending.c.handler == handler, pending.c.message_id == message_id)
    await connection.execute(update(pending).where(*held).values(error=ISOLATED))


async def stands(connection: AsyncConnection, handler: str, message_id: str) -> bool:
    """Whether there is a row of this message."""
    found = select(pending.c.state).where(pending.c.handler == handler, pending.c.message_id == message_id)
    return (await connection.execute(found)).first() is not None


async def remove(connection: AsyncConnection, handler: str, message_id: str) -> None:
    """It is settled."""
    await connection.execute(delete(pending).where(pending.c.handler == handler, pending.c.message_id == message_id))


async def remove_everywhere(connection: AsyncConnection, message_id: str) -> None:
    """A command was made void: none of its rows may run."""
    await connection.execute(delete(pending).where(pending.c.message_id == message_id, pending.c.state != "dead"))


async def next_due_us(connection: AsyncConnection, handlers: Sequence[str]) -> int | None:
    """When the next row of these handlers is due."""
    due: int | None = (await connection.execute(_NEXT_DUE, {"handlers": list(handlers)})).scalar()
    return due


async def dead_letters(connection: AsyncConnection, *, limit: int = 100) -> list[Pending]:
    """The newest dead rows, up to `limit`."""
    found = select(pending).where(stands_as("dead")).order_by(pending.c.created_us.desc()).limit(limit)
    return [read(row) for row in await connection.execute(found)]


async def find(connection: AsyncConnection, handler: str, message_id: str) -> Pending | None:
    """The row of a message, or None."""
    row = (await connection.execute(select(pending).where(pending.c.handler == handler, pending.c.message_id == message_id))).first()
    return None if row is None else read(row)


async def dead_letter(connection: AsyncConnection, message_id: str) -> Pending | None:
    """The dead row of a message, of whichever handler."""
    found = select(pending).where(stands_as("dead"), pending.c.message_id == message_id).limit(1)
    row = (await connection.execute(found)).first()
    return None if row is None else read(row)


def stands_as(state: PendingState) -> ColumnElement[bool]:
    """The condition that a row is in `state`, as a literal: by a parameter no partial index is found."""
    return pending.c.state == literal_column(f"'{state}'")


def columns_of(handler: str, envelope: Envelope) -> dict[str, Any]:
    """What a row says of the message itself."""
    return {
        "handler": handler, "message_id": envelope.id, "bucket": envelope.bucket, "type": envelope.type, "key": envelope.key,
        "source": envelope.app_id, "stream": envelope.stream, "seq": envelope.seq, "prev": envelope.prev,
        "properties": properties_text(to_properties(envelope)), "body": envelope.body,
    }  # fmt: skip


def _newest(error: Entry) -> dict[str, Any]:
    return {"error": error["type"], "place": error["place"], "failed_us": error["at_us"]}


async def _errors(connection: AsyncConnection, handler: str, message_id: str) -> list[Entry]:
    found = select(pending.c.errors).where(pending.c.handler == handler, pending.c.message_id == message_id)
    kept = (await connection.execute(found)).scalar()
    return [] if kept is None else list(json.loads(kept))


def read(row: Any) -> Pending:
    """A row of the table, read."""
    return Pending(
        handler=row.handler,
        message_id=row.message_id,
        state=row.state,
        attempts=row.attempts,
        properties=read_properties(row.properties),
        body=row.body,
        errors=tuple(json.loads(row.errors)),
        due_us=row.due_us,
        type=row.type,
        key=row.key,
        error=row.error,
        place=row.place,
        failed_us=row.failed_us,
        created_us=row.created_us,
    )


def _readable(properties: Properties) -> str:
    try:
        return properties_text(properties)
    except (TypeError, ValueError):  # a header that JSON cannot hold
        return properties_text(replace(properties, headers={name: repr(value) for name, value in properties.headers.items()}))


def _soonest(state: PendingState) -> Select[Any]:
    handlers = pending.c.handler.in_(bindparam("handlers", expanding=True))
    first = select(pending.c.due_us).where(stands_as(state), handlers).order_by(pending.c.due_us).limit(1).subquery()
    return select(first.c.due_us)


# Made once: asked every second, by every service
_NEXT_DUE = select(func.min(union_all(_soonest("retry"), _soonest("isolated")).subquery().c.due_us))
