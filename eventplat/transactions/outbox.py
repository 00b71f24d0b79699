"""Outbox: what a committed transaction promised to send, its exact bytes and its owner.

Born owned  a row belongs to the process that committed it: only the owner publishes and deletes it, so a
            slow broker never makes two processes send the same rows (`transactions.dispatch`).
Adopted     a row without an owner (a delayed send that is due) or whose owner has died is taken by the
            relay of a living process (`transactions.relay`).
By state    rows are found by owner and time, never by `id > last`: ids do not commit in order.
Events      their bytes stand in `event_log`; the outbox row points there.
Again       a letter under an id that stands here already (a saga's step sent again, a reply given again) changes
            nothing, and is its owner's to send, not the writer's. An event in the log is not written again.
Order       an event with a key gets `seq = max(last + 1, database clock)` and `prev = last`, in sorted key
            order so that two transactions never wait for each other crosswise.

Source    Richardson, Microservices Patterns (2018), 3.3.7; Helland, CIDR 2007.

Next: transactions.dispatch
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    bindparam,
    case,
    delete,
    func,
    select,
    update,
)  # fmt: skip
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from eventplat.broker.topology import routing_key_of
from eventplat.broker.transport import Outgoing
from eventplat.hashing import bucket_of
from eventplat.messages.codec import Properties
from eventplat.messages.ids import is_derived
from eventplat.storage.tables import now_us, one_of
from eventplat.transactions import outbox_postgres
from eventplat.transactions.letter import Letter
from eventplat.transactions.outbox_tables import UNROUTED, event_log, outbox, sequence
from eventplat.transactions.owner import process
from eventplat.transactions.stored import properties_text, to_outgoing
from eventplat.transactions.stored import to_properties as read_properties


async def append(connection: AsyncConnection, letters: Sequence[Letter], owner: str) -> list[Letter]:
    """Write `letters` in the caller's transaction.

    Returns:
        Those that were written, as they will be sent, events with their order; not those whose id stands already.
    """
    letters = await _not_in_log(connection, letters)
    if not letters:
        return []
    if connection.dialect.name == "postgresql":
        places = await outbox_postgres.insert(connection, [_row(letter, owner) for letter in letters])
        return [letter.placed(*places[letter.envelope.id]) for letter in letters if letter.envelope.id in places]
    letters = await _in_order(connection, letters)
    rows = [_row(letter, owner) for letter in letters]
    events = [{name: row[name] for name in _LOGGED} for row in rows if row["event_id"] is not None]
    if events:
        await connection.execute(_INSERT_EVENTS, events)
    found = await connection.execute(_INSERT, [{**row, "body": None if row["event_id"] else row["body"]} for row in rows])
    written = {row.id for row in found}
    return [letter for letter in letters if letter.envelope.id in written]


async def adopt(connection: AsyncConnection, owner: str, *, limit: int) -> list[tuple[str, Outgoing]]:
    """Take over up to `limit` rows that no living process owns: of the dead first, then those that are due; oldest first."""
    dead = [row.owner for row in await connection.execute(_DEAD_OWNERS)]
    left = [one_of(connection, outbox.c.owner, dead)] if dead else []
    taken: list[str] = []
    for condition in (*left, outbox.c.owner.is_(None) & (outbox.c.due_us <= now_us())):
        ids = select(outbox.c.id).where(condition).order_by(outbox.c.id).limit(limit - len(taken)).with_for_update(skip_locked=True)
        take = update(outbox).where(outbox.c.id.in_(ids)).values(owner=owner, due_us=None).returning(outbox.c.id)
        taken += [row.id for row in await connection.execute(take)]
    return await _outgoing(connection, taken)


async def owned(connection: AsyncConnection, owner: str, *, limit: int) -> list[tuple[str, Outgoing]]:
    """Up to `limit` rows that `owner` has not settled; oldest first."""
    rows = await connection.execute(select(outbox.c.id).where(outbox.c.owner == owner).order_by(outbox.c.id).limit(limit))
    return await _outgoing(connection, [row.id for row in rows])


async def remove(connection: AsyncConnection, owner: str, ids: Sequence[str]) -> None:
    """Delete those of `owner`'s rows that are confirmed."""
    if ids:
        await connection.execute(delete(outbox).where(one_of(connection, outbox.c.id, ids), outbox.c.owner == owner))


async def postpone(connection: AsyncConnection, owner: str, ids: Sequence[str], *, wait_us: int) -> None:
    """Give rows of `owner` back, due after `wait_us`: for what the broker could not route or refused."""
    if ids:
        given_back = update(outbox).where(one_of(connection, outbox.c.id, ids), outbox.c.owner == owner)
        await connection.execute(given_back.values(owner=None, due_us=now_us() + wait_us, attempts=outbox.c.attempts + 1))


async def mark_unrouted(connection: AsyncConnection, ids: Sequence[str]) -> None:
    """Note that these events reached no queue: they stay in the log and can be sent when a handler is announced."""
    if ids:
        await connection.execute(update(event_log).where(one_of(connection, event_log.c.id, ids)).values(unrouted=True))


async def has_unrouted(connection: AsyncConnection) -> bool:
    """Whether an event stands in the log that reached no queue."""
    return (await connection.execute(select(event_log.c.id).where(UNROUTED).limit(1))).first() is not None


async def reopen(
    connection: AsyncConnection, owner: str, streams: Mapping[str, str], *, exchange: str, limit: int
) -> list[tuple[str, Outgoing]]:
    """Put up to `limit` unrouted events back into the outbox as `owner`'s, and take their mark away; oldest first.

    Args:
        streams: Which types, and the stream of each, where its events have no key to write it down for.
    """
    placed = func.coalesce(event_log.c.seq, event_log.c.created_us)
    found = select(event_log).where(UNROUTED, event_log.c.type.in_(streams)).order_by(placed, event_log.c.id).limit(limit)
    rows = (await connection.execute(found.with_for_update())).all()
    if not rows:
        return []
    again = [_again(row, owner, exchange, row.stream or streams[row.type]) for row in rows]
    await connection.execute(_INSERT, again)
    await connection.execute(update(event_log).where(one_of(connection, event_log.c.id, [row.id for row in rows])).values(unrouted=False))
    sent = dict(await _outgoing(connection, [row.id for row in rows]))
    return [(row.id, sent[row.id]) for row in rows]


async def cancel(connection: AsyncConnection, message_id: str) -> bool:
    """Take back a delayed send that still waits, an event from the log too; False where it has left."""
    waiting = delete(outbox).where(outbox.c.id == message_id, _waits()).returning(outbox.c.id)
    if (await connection.execute(waiting)).first() is None:
        return False
    await connection.execute(delete(event_log).where(event_log.c.id == message_id))
    return True


async def delayed(connection: AsyncConnection, *, limit: int) -> list[tuple[str, Properties, int]]:
    """Up to `limit` messages that wait for their time, the next first: id, properties, and when they are due."""
    columns = (outbox.c.id, outbox.c.properties, outbox.c.due_us)
    rows = await connection.execute(select(*columns).where(_waits()).order_by(outbox.c.due_us, outbox.c.id).limit(limit))
    return [(row.id, read_properties(row.properties), row.due_us) for row in rows]


async def waits(connection: AsyncConnection, message_id: str) -> bool:
    """Whether `cancel` would take it back."""
    found = select(outbox.c.id).where(outbox.c.id == message_id, _waits())
    return (await connection.execute(found)).first() is not None


async def next_due_us(connection: AsyncConnection) -> int | None:
    """When the next delayed row is due, on the database's clock."""
    found = select(outbox.c.due_us).where(_waits()).order_by(outbox.c.due_us).limit(1)
    due: int | None = (await connection.execute(found)).scalar()
    return due


def _waits() -> ColumnElement[bool]:
    return outbox.c.owner.is_(None) & outbox.c.due_us.is_not(None)


async def _not_in_log(connection: AsyncConnection, letters: Sequence[Letter]) -> Sequence[Letter]:
    """Without the events that were recorded before: they may not take a second place in their key's order.

    Whoever derives an event's id holds a lock on what it is derived from, so that no other writes it meanwhile.
    """
    again = [letter.envelope.id for letter in letters if letter.is_event and is_derived(letter.envelope.id)]
    if not again:
        return letters
    known = {row.id for row in await connection.execute(select(event_log.c.id).where(one_of(connection, event_log.c.id, again)))}
    return [letter for letter in letters if letter.envelope.id not in known]


async def _in_order(connection: AsyncConnection, letters: Sequence[Letter]) -> Sequence[Letter]:
    counts: defaultdict[tuple[str, str], int] = defaultdict(int)
    for letter in letters:
        if letter.takes_turn:
            counts[letter.envelope.stream or "", letter.envelope.key or ""] += 1
    if not counts:
        return letters
    following: dict[tuple[str, str], tuple[int, int | None]] = {}
    for (stream, key), count in sorted(counts.items()):  # in this process, a statement costs no round trip
        row = (await connection.execute(_NEXT, {"stream": stream, "key": key, "bucket": bucket_of(key), "n": count - 1})).one()
        following[stream, key] = (row.last - count + 1, row.prev)
    placed = []
    for letter in letters:
        place = (letter.envelope.stream or "", letter.envelope.key or "")
        if not letter.takes_turn:
            placed.append(letter)
            continue
        seq, prev = following[place]
        following[place] = (seq + 1, seq)
        placed.append(letter.placed(seq, prev))
    return placed


def _row(letter: Letter, owner: str) -> dict[str, Any]:
    """The columns of its outbox row, and of its event's: one dictionary, so that its bytes are made once."""
    envelope = letter.envelope
    return {
        "id": envelope.id,
        "bucket": envelope.bucket,
        "owner": owner if letter.after_us is None else None,
        "exchange": letter.exchange,
        "routing_key": letter.routing_key,
        "properties": properties_text(letter.outgoing().properties),
        "body": envelope.body,
        "event_id": envelope.id if letter.is_event else None,
        "after_us": letter.after_us,
        "created_us": envelope.created_us,
        "type": envelope.type,
        "key": envelope.key,
        "stream": envelope.stream,
        "seq": envelope.seq,
        "prev": envelope.prev,
        "takes_turn": letter.takes_turn,
    }


def _again(row: Any, owner: str, exchange: str, stream: str) -> dict[str, Any]:
    """The outbox row of an event in the log."""
    return {
        "id": row.id, "bucket": row.bucket, "owner": owner, "exchange": exchange, "body": None,
        "routing_key": routing_key_of(row.type, stream, row.key), "properties": row.properties,
        "event_id": row.id, "after_us": None, "created_us": row.created_us,
    }  # fmt: skip


async def _outgoing(connection: AsyncConnection, ids: Sequence[str]) -> list[tuple[str, Outgoing]]:
    if not ids:
        return []
    rows = await connection.execute(_READ.where(one_of(connection, outbox.c.id, ids)))
    return [(row.id, to_outgoing(row)) for row in rows]


# PostgreSQL's insert also compiles for SQLite: both know ON CONFLICT
_INSERT = (
    postgresql.insert(outbox)
    .values(
        due_us=now_us() + bindparam("after_us", type_=BigInteger()),     # null stays null: at once
        mandatory=True,
        attempts=0,
        **{column.name: bindparam(column.name) for column in outbox.c if column.name not in {"due_us", "mandatory", "attempts"}},
    )
    .on_conflict_do_nothing()
    .returning(outbox.c.id)
)
_LOGGED = ("id", "bucket", "type", "key", "stream", "seq", "prev", "properties", "body", "created_us")
_INSERT_EVENTS = postgresql.insert(event_log).values(unrouted=False, **{name: bindparam(name) for name in _LOGGED}).on_conflict_do_nothing()
_READ = (
    select(
        outbox.c.id, outbox.c.exchange, outbox.c.routing_key, outbox.c.mandatory, outbox.c.properties,
        case((outbox.c.body.is_not(None), outbox.c.body), else_=event_log.c.body).label("body"),
    )
    .select_from(outbox.outerjoin(event_log, outbox.c.event_id == event_log.c.id))
    .order_by(outbox.c.id)
)  # fmt: skip
# From owner to owner by the index: the rows between them, of a living process behind a slow broker, are not read
_owner = outbox.alias()
_by_owner = select(_owner.c.owner).order_by(_owner.c.owner).limit(1)
_lowest = select(_by_owner.where(_owner.c.owner.is_not(None)).scalar_subquery().label("owner")).cte("owners", recursive=True)
_next = select(_by_owner.where(_owner.c.owner > _lowest.c.owner).scalar_subquery()).where(_lowest.c.owner.is_not(None))
_owners = _lowest.union_all(_next)
_DEAD_OWNERS = select(_owners.c.owner).where(
    _owners.c.owner.is_not(None), _owners.c.owner.not_in(select(process.c.id).where(process.c.alive_until_us > now_us()))
)
_first = postgresql.insert(sequence).values(
    stream=bindparam("stream"), key=bindparam("key"), bucket=bindparam("bucket"),
    last=now_us() + bindparam("n", type_=BigInteger()), prev=None,
)  # fmt: skip
_NEXT = _first.on_conflict_do_update(
    index_elements=[sequence.c.stream, sequence.c.key],
    set_={
        "prev": sequence.c.last,
        "last": case((sequence.c.last >= now_us(), sequence.c.last + 1), else_=now_us()) + bindparam("n", type_=BigInteger()),
    },
).returning(sequence.c.last, sequence.c.prev)
