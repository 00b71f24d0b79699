"""Turns: as `watermark.advance` and `release`, for the events of one handler that share a transaction.

Lock      the keys' watermarks, in one order for everybody.
Decide    which of the events may be applied, without a database (`decide`).
Move      the watermarks up to those.
Release   what is held behind them, with what only waits for that: it shares a transaction again. Of a long line no more
          than a batch: the rest goes on when the last of these has been applied.

On PostgreSQL each step is one statement, whose text is the same for any number of events; on SQLite, in this process, a
statement for each key costs no round trip.

Next: transactions.held
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from eventplat.hashing import bucket_of
from eventplat.messages.envelope import Envelope
from eventplat.transactions import watermark
from eventplat.transactions.pending import pending

Place = tuple[str, str, str]             # source, stream, key
Row = tuple[str, int, int | None]        # a held event's id, seq and prev

_PLACES = "unnest(CAST(:source AS text[]), CAST(:stream AS text[]), CAST(:key AS text[])"
_LOCK = text(f"""
    INSERT INTO eventplat_watermark AS w (handler, source, stream, key, bucket, seq)
    SELECT CAST(:handler AS text), m.source, m.stream, m.key, m.bucket, -1
    FROM {_PLACES}, CAST(:bucket AS smallint[])) WITH ORDINALITY AS m (source, stream, key, bucket, place)
    ORDER BY m.place
    ON CONFLICT (handler, source, stream, key) DO UPDATE SET seq = w.seq
    RETURNING source, stream, key, seq
""")  # noqa: S608 - made of the names above
_MOVE = text(f"""
    UPDATE eventplat_watermark AS w SET seq = m.seq
    FROM {_PLACES}, CAST(:seq AS bigint[])) AS m (source, stream, key, seq)
    WHERE w.handler = CAST(:handler AS text) AND w.source = m.source AND w.stream = m.stream AND w.key = m.key
""")  # noqa: S608 - likewise
_HELD = text(f"""
    SELECT m.source, m.stream, m.key, held.message_id, held.seq, held.prev
    FROM {_PLACES}) AS m (source, stream, key)
    CROSS JOIN LATERAL (
        SELECT p.message_id, p.seq, p.prev FROM eventplat_pending p
        WHERE p.state = 'held' AND p.handler = CAST(:handler AS text) AND p.stream = m.stream AND p.key = m.key
            AND (p.source = m.source OR p.source IS NULL)
        ORDER BY p.seq LIMIT :limit
    ) AS held
    ORDER BY held.seq
""")  # noqa: S608 - likewise


async def advance(
    connection: AsyncConnection, handler: str, envelopes: Sequence[Envelope], *, limit: int
) -> tuple[frozenset[str], bool]:
    """Lock the watermarks of `envelopes`, and move them up to what may be applied.

    Args:
        envelopes: Claimed in this transaction, those of one key in the order of their `seq`.
        limit: So many of what was held are let go, and at least the first of each key.

    Returns:
        The ids of those that have to wait, and whether others that were held for one of these may run now.
    """
    ordered = [envelope for envelope in envelopes if envelope.key is not None and envelope.seq is not None]
    places = sorted({_place(envelope) for envelope in ordered})
    if not places:
        return frozenset(), False
    steps = _on_sqlite if connection.dialect.name == "sqlite" else _on_postgresql
    last = await steps.lock(connection, handler, places)
    waiting, reached = decide(ordered, last, await watermark.horizon(connection, handler))
    freed: list[str] = []
    if reached:
        await steps.move(connection, handler, reached)
        held = await steps.held(connection, handler, sorted(reached), max(limit // len(reached), 1))
        freed = [message_id for place, rows in held.items() for message_id in in_turn(rows, reached[place])]
        await watermark.make_due(connection, handler, freed)
    return frozenset(waiting), bool(freed)


def decide(envelopes: Sequence[Envelope], last: Mapping[Place, int], horizon: int) -> tuple[list[str], dict[Place, int]]:
    """Which of `envelopes` have to wait, and where the watermarks of those keys stand that one of them is applied for.

    Args:
        envelopes: With a key and a `seq`; those of one key in its order.
        last: Where the watermark of each key stands.
    """
    waiting: list[str] = []
    reached: dict[Place, int] = {}
    for envelope in envelopes:
        place = _place(envelope)
        before = reached.get(place, last[place])
        if envelope.prev is not None and envelope.prev > before and envelope.prev >= horizon:
            waiting.append(envelope.id)
        else:
            reached[place] = max(before, envelope.seq or 0)
    return waiting, reached


def in_turn(held: Sequence[Row], reached: int) -> list[str]:
    """The ids of those of one key's `held` events that may run now, one after the other.

    Args:
        held: In the order of their `seq`.
        reached: Where the key's watermark stands.
    """
    due = []
    for message_id, seq, prev in held:
        if prev is None or prev <= reached:
            due.append(message_id)
            reached = max(reached, seq)
    return due


class _Steps(Protocol):
    async def lock(self, connection: AsyncConnection, handler: str, places: Sequence[Place]) -> dict[Place, int]:
        """Where the watermarks stand, locked in the order of `places`."""
        ...

    async def move(self, connection: AsyncConnection, handler: str, reached: Mapping[Place, int]) -> None: ...

    async def held(self, connection: AsyncConnection, handler: str, places: Sequence[Place], limit: int) -> dict[Place, list[Row]]:
        """The first held events of each of `places`, at most `limit` of each."""
        ...


class _OnPostgreSQL:
    async def lock(self, connection: AsyncConnection, handler: str, places: Sequence[Place]) -> dict[Place, int]:
        buckets = [bucket_of(key) for *_, key in places]
        found = await connection.execute(_LOCK, {"handler": handler, **_arrays(places), "bucket": buckets})
        return {(row.source, row.stream, row.key): row.seq for row in found}

    async def move(self, connection: AsyncConnection, handler: str, reached: Mapping[Place, int]) -> None:
        await connection.execute(_MOVE, {"handler": handler, **_arrays(list(reached)), "seq": list(reached.values())})

    async def held(self, connection: AsyncConnection, handler: str, places: Sequence[Place], limit: int) -> dict[Place, list[Row]]:
        found: dict[Place, list[Row]] = defaultdict(list)
        for row in await connection.execute(_HELD, {"handler": handler, **_arrays(places), "limit": limit}):
            found[row.source, row.stream, row.key].append((str(row.message_id), row.seq, row.prev))
        return found


class _OnSQLite:
    async def lock(self, connection: AsyncConnection, handler: str, places: Sequence[Place]) -> dict[Place, int]:
        return {place: await watermark.lock(connection, handler, *place) for place in places}

    async def move(self, connection: AsyncConnection, handler: str, reached: Mapping[Place, int]) -> None:
        for place, seq in reached.items():
            await connection.execute(update(watermark.watermark).where(*watermark.at(handler, *place)).values(seq=seq))

    async def held(self, connection: AsyncConnection, handler: str, places: Sequence[Place], limit: int) -> dict[Place, list[Row]]:
        found: dict[Place, list[Row]] = {}
        for place in places:
            rows = select(pending.c.message_id, pending.c.seq, pending.c.prev).where(*watermark.held_at(handler, *place))
            found[place] = [(row[0], row[1], row[2]) for row in await connection.execute(rows.order_by(pending.c.seq).limit(limit))]
        return found


_on_postgresql: _Steps = _OnPostgreSQL()
_on_sqlite: _Steps = _OnSQLite()


def _place(envelope: Envelope) -> Place:
    return envelope.app_id or "", envelope.stream or "", envelope.key or ""


def _arrays(places: Sequence[Place]) -> dict[str, Any]:
    return {"source": [source for source, *_ in places], "stream": [stream for _, stream, _ in places], "key": [key for *_, key in places]}
