"""Inbox: what is settled. The idempotent receiver's memory.

Claim     the first statement of a unit of work inserts (consumer, message id). A concurrent copy waits on
          the row until this transaction ends, and then finds it: no select-then-insert, no window.
Outcome   the reply's exact bytes commit with the effects, so that a second copy is answered byte for byte.
Consumer  an event's is its subscription; a command's is its owner, since it has one handler: so an undo,
          which knows only the command's id, finds or forbids it by the same primary key.
Void      a tombstone: an undo that overtook its command, or expired work. A later copy never runs.

Source    Hohpe & Woolf, Enterprise Integration Patterns (2003), Idempotent Receiver.

Next: transactions.unit_of_work
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import (
    BigInteger,
    Column,
    LargeBinary,
    Table,
    Text,
    bindparam,
    delete,
    exists,
    literal,
    select,
    text,
    update,
)  # fmt: skip
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from eventplat.hashing import body_hash
from eventplat.messages.envelope import DONE, REJECTED, VOID, Envelope
from eventplat.storage.tables import UUID, bucket, now_us, one_of, platform
from eventplat.transactions.pending import pending

InboxState = Literal["done", "rejected", "void"]

inbox = Table(
    "eventplat_inbox",
    platform,
    Column("message_id", UUID, primary_key=True),
    Column("consumer", Text, primary_key=True),
    bucket(),
    Column("state", Text, nullable=False),
    Column("body_hash", LargeBinary, nullable=True),       # null in a tombstone: its command was never seen
    Column("outcome", LargeBinary, nullable=True),         # null: nothing to answer, or the saga's row holds it
    Column("settled_us", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Settled:
    """What the inbox holds of a message."""

    state: InboxState
    body_hash: bytes | None
    outcome: bytes | None

    @property
    def reply_type(self) -> str:
        """The type of the reply that tells it."""
        return {"done": DONE, "rejected": REJECTED, "void": VOID}[self.state]

    def has_other_body(self, body: bytes) -> bool:
        """Whether `body` is not the one that was settled under this id."""
        return self.body_hash is not None and self.body_hash != body_hash(body)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one claimed message ended."""

    message_id: str
    state: InboxState
    outcome: bytes | None


async def claim(connection: AsyncConnection, consumer: str, envelope: Envelope, *, handler: str | None) -> bool:
    """Make this message this transaction's own.

    Args:
        handler: The message came by wire to this handler: a row of its in `pending` means that it is not the
            wire's to run. None: it runs from that row.

    Returns:
        False where it is settled already, or stands in `pending`.
    """
    row = {
        "message_id": envelope.id, "consumer": consumer, "bucket": envelope.bucket,
        "state": "done", "body_hash": body_hash(envelope.body),
    }  # fmt: skip
    if handler is None:
        return (await connection.execute(_INSERT, row)).first() is not None
    return (await connection.execute(_CLAIM, row | {"handler": handler})).first() is not None


async def claim_many(
    connection: AsyncConnection, consumer: str, envelopes: Sequence[Envelope], *, handler: str
) -> frozenset[str]:
    """As `claim` for messages that came by wire, in one statement; returns the ids that are this transaction's own.

    Args:
        envelopes: Each id once, in the order of the ids: two batches then wait for each other in one direction.
    """
    rows = [{
        "message_id": envelope.id, "consumer": consumer, "bucket": envelope.bucket, "state": "done",
        "body_hash": body_hash(envelope.body), "handler": handler,
    } for envelope in envelopes]  # fmt: skip
    if connection.dialect.name == "sqlite":  # in this process, a statement costs no round trip
        return frozenset([str(row["message_id"]) for row in rows if (await connection.execute(_CLAIM, row)).first() is not None])
    columns = {name: [row[name] for row in rows] for name in ("message_id", "bucket", "body_hash")}
    claimed = await connection.execute(_CLAIM_MANY, {**columns, "consumer": consumer, "handler": handler})
    return frozenset(str(row.message_id) for row in claimed)


async def bury(connection: AsyncConnection, consumer: str, message_id: str, bucket: int) -> bool:
    """Insert a tombstone for a message that must not run; False where it is settled already."""
    row = {"message_id": message_id, "consumer": consumer, "bucket": bucket, "state": "void", "body_hash": None}
    return (await connection.execute(_INSERT, row)).first() is not None


async def settle(connection: AsyncConnection, consumer: str, message_id: str, state: InboxState, outcome: bytes | None) -> None:
    """Record how a claimed message ended."""
    await connection.execute(_SETTLE, {"b_message_id": message_id, "b_consumer": consumer, "b_state": state, "b_outcome": outcome})


async def settle_many(connection: AsyncConnection, consumer: str, outcomes: Sequence[Outcome]) -> None:
    """As `settle` for several."""
    if outcomes:
        rows = [{"b_message_id": o.message_id, "b_consumer": consumer, "b_state": o.state, "b_outcome": o.outcome} for o in outcomes]
        await connection.execute(_SETTLE, rows)


async def forget(connection: AsyncConnection, consumer: str, message_id: str) -> None:
    """Give a claim back in its own transaction: the message waits for its turn."""
    await connection.execute(delete(inbox).where(inbox.c.message_id == message_id, inbox.c.consumer == consumer))


async def forget_many(connection: AsyncConnection, consumer: str, ids: Sequence[str]) -> None:
    """As `forget` for several."""
    await connection.execute(delete(inbox).where(one_of(connection, inbox.c.message_id, ids), inbox.c.consumer == consumer))


async def look_up(connection: AsyncConnection, consumer: str, message_id: str) -> Settled | None:
    """What is recorded of a message, or None."""
    row = (await connection.execute(_LOOK_UP, {"b_message_id": message_id, "b_consumer": consumer})).first()
    return None if row is None else Settled(row.state, row.body_hash, row.outcome)


_names = ("message_id", "consumer", "bucket", "state", "body_hash")
_values = [bindparam(name, type_=inbox.c[name].type) for name in _names]
_stands_in_pending = exists(literal(1)).where(
    pending.c.message_id == bindparam("message_id", type_=inbox.c.message_id.type),
    pending.c.handler == bindparam("handler", type_=Text()),
)
# PostgreSQL's insert also compiles for SQLite: both know ON CONFLICT DO NOTHING
_CLAIM = (
    postgresql.insert(inbox)
    .from_select([*_names, "settled_us"], select(*_values, now_us()).where(~_stands_in_pending))
    .on_conflict_do_nothing()
    .returning(inbox.c.message_id)
)
_CLAIM_MANY = text("""
    INSERT INTO eventplat_inbox (message_id, consumer, bucket, state, body_hash, settled_us)
    SELECT m.message_id, :consumer, m.bucket, 'done', m.body_hash, (extract(epoch from clock_timestamp()) * 1000000)::bigint
    FROM unnest(CAST(:message_id AS uuid[]), CAST(:bucket AS smallint[]), CAST(:body_hash AS bytea[]))
         WITH ORDINALITY AS m (message_id, bucket, body_hash, place)
    WHERE NOT EXISTS (SELECT 1 FROM eventplat_pending p WHERE p.message_id = m.message_id AND p.handler = :handler)
    ORDER BY m.place
    ON CONFLICT DO NOTHING
    RETURNING message_id
""")
_INSERT = (
    postgresql.insert(inbox)
    .values(settled_us=now_us(), **{name: bindparam(name) for name in _names})
    .on_conflict_do_nothing()
    .returning(inbox.c.message_id)
)
_SETTLE = (
    update(inbox)
    .where(inbox.c.message_id == bindparam("b_message_id"), inbox.c.consumer == bindparam("b_consumer"))
    .values(state=bindparam("b_state"), outcome=bindparam("b_outcome"))
)
_LOOK_UP = select(inbox.c.state, inbox.c.body_hash, inbox.c.outcome).where(
    inbox.c.message_id == bindparam("b_message_id"), inbox.c.consumer == bindparam("b_consumer")
)
