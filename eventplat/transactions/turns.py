"""Turns: as `watermark.advance` and `release`, for the events of one handler that share a transaction.

On PostgreSQL a few statements, whose text is the same for any number of events: lock the keys, in one order, move up
those whose events may be applied, and see who is held for these. What is decided in between is `decide`, without a database.
On SQLite, in this process, a statement costs no round trip: one event after the other.

Next: transactions.held
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from eventplat.hashing import bucket_of
from eventplat.messages.envelope import Envelope
from eventplat.transactions import watermark

Place = tuple[str, str, str]     # source, stream, key

_PLACES = "unnest(CAST(:source AS text[]), CAST(:stream AS text[]), CAST(:key AS text[])"
_LOCK = text(f"""
    INSERT INTO eventplat_watermark AS w (handler, source, stream, key, bucket, seq)
    SELECT CAST(:handler AS text), m.source, m.stream, m.key, m.bucket, -1
    FROM {_PLACES}, CAST(:bucket AS smallint[])) WITH ORDINALITY AS m (source, stream, key, bucket, place)
    ORDER BY m.place
    ON CONFLICT (handler, source, stream, key) DO UPDATE SET seq = w.seq
    RETURNING source, stream, key, seq
""")  # noqa: S608 - made of the names above
_RAISE = text(f"""
    UPDATE eventplat_watermark AS w SET seq = m.seq
    FROM {_PLACES}, CAST(:seq AS bigint[])) AS m (source, stream, key, seq)
    WHERE w.handler = CAST(:handler AS text) AND w.source = m.source AND w.stream = m.stream AND w.key = m.key
""")  # noqa: S608 - likewise
_HELD = text(f"""
    SELECT m.source, m.stream, m.key, p.message_id, p.seq, p.prev
    FROM {_PLACES}) AS m (source, stream, key)
    JOIN eventplat_pending p ON p.stream = m.stream AND p.key = m.key AND (p.source = m.source OR p.source IS NULL)
    WHERE p.handler = CAST(:handler AS text) AND p.state = 'held'
""")  # noqa: S608 - likewise


async def advance(connection: AsyncConnection, handler: str, envelopes: Sequence[Envelope]) -> tuple[frozenset[str], bool]:
    """Lock the watermarks of `envelopes`, and move them up to what may be applied.

    Args:
        envelopes: Claimed in this transaction, those of one key in the order of their `seq`.

    Returns:
        The ids of those that have to wait, and whether others that were held for one of these may run now.
    """
    ordered = [envelope for envelope in envelopes if envelope.key is not None and envelope.seq is not None]
    if connection.dialect.name == "sqlite":
        waiting = [envelope.id for envelope in ordered if await watermark.advance(connection, handler, envelope) == "wait"]
        freed = [envelope.id not in waiting and await watermark.release(connection, handler, envelope) for envelope in ordered]
        return frozenset(waiting), any(freed)
    places = sorted({_place(envelope) for envelope in ordered})
    if not places:
        return frozenset(), False
    found = await connection.execute(_LOCK, {"handler": handler, **_arrays(places), "bucket": [bucket_of(key) for *_, key in places]})
    last: dict[Place, int] = {(row.source, row.stream, row.key): row.seq for row in found}
    waiting, reached = decide(ordered, last, await watermark.horizon(connection, handler))
    raised = sorted(reached.items())
    if not raised:
        return frozenset(waiting), False
    arrays = {"handler": handler, **_arrays([place for place, _ in raised])}
    await connection.execute(_RAISE, {**arrays, "seq": [seq for _, seq in raised]})
    held: dict[Place, list[tuple[str, int, int | None]]] = defaultdict(list)
    for row in await connection.execute(_HELD, arrays):
        held[row.source, row.stream, row.key].append((str(row.message_id), row.seq, row.prev))
    freed_ids = [message_id for place, rows in held.items() for message_id in watermark.in_turn(rows, reached[place])]
    await watermark.make_due(connection, handler, freed_ids)
    return frozenset(waiting), bool(freed_ids)


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


def _place(envelope: Envelope) -> Place:
    return envelope.app_id or "", envelope.stream or "", envelope.key or ""


def _arrays(places: Sequence[Place]) -> dict[str, Any]:
    return {"source": [source for source, *_ in places], "stream": [stream for _, stream, _ in places], "key": [key for *_, key in places]}
