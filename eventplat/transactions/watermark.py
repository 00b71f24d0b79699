"""Watermark: which event of a key an ordered handler has applied last.

Per (handler, source, stream, key). An event carries `seq` and the `prev` it follows; it is applied when
`prev` is null, at or below the watermark, or older than the handler's horizon (when it subscribed). At or
below the watermark it is a duplicate; anything else waits in `pending` as held, in the same transaction
that holds the watermark's lock, so that the one it waits for cannot slip by. No dense counter: filters,
late subscribers and two producers of one key would wait for ever.
"""

from __future__ import annotations

from typing import Literal

from sqlalchemy import BigInteger, Column, Table, Text, or_, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from eventplat.hashing import bucket_of
from eventplat.messages.envelope import Envelope
from eventplat.storage.tables import bucket, now_us, platform
from eventplat.transactions.pending import pending

watermark = Table(
    "eventplat_watermark",
    platform,
    Column("handler", Text, primary_key=True),
    Column("source", Text, primary_key=True),
    Column("stream", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    bucket(),
    Column("seq", BigInteger, nullable=False),
)

Turn = Literal["apply", "duplicate", "wait"]


async def horizon(connection: AsyncConnection, handler: str) -> int:
    """When `handler` subscribed, on the database's clock: recorded at its first start, then read."""
    row = postgresql.insert(watermark).values(handler=handler, source="", stream="", key="", bucket=0, seq=now_us())
    await connection.execute(row.on_conflict_do_nothing())
    found = select(watermark.c.seq).where(watermark.c.handler == handler, watermark.c.source == "", watermark.c.stream == "")
    seq: int = (await connection.execute(found)).scalar_one()
    return seq


async def advance(connection: AsyncConnection, handler: str, envelope: Envelope, horizon_us: int) -> Turn:
    """Lock the key's watermark and say what to do with `envelope`; "apply" moves it."""
    if envelope.key is None or envelope.seq is None:
        return "apply"
    place = {"handler": handler, "source": envelope.app_id or "", "stream": envelope.stream or "", "key": envelope.key}
    row = postgresql.insert(watermark).values(bucket=bucket_of(envelope.key), seq=-1, **place)
    await connection.execute(row.on_conflict_do_nothing())
    here = [watermark.c[name] == value for name, value in place.items()]
    last: int = (await connection.execute(select(watermark.c.seq).where(*here).with_for_update())).scalar_one()
    if envelope.seq <= last:
        return "duplicate"
    if envelope.prev is not None and envelope.prev > last and envelope.prev >= horizon_us:
        return "wait"
    await connection.execute(update(watermark).where(*here).values(seq=envelope.seq))
    return "apply"


async def release(connection: AsyncConnection, handler: str, envelope: Envelope) -> bool:
    """Make due what waited for `envelope`; whether there was anything."""
    if envelope.seq is None:
        return False
    freed = (
        update(pending)
        .where(
            pending.c.handler == handler,
            pending.c.state == "held",
            pending.c.stream == envelope.stream,
            pending.c.key == envelope.key,
            or_(pending.c.prev.is_(None), pending.c.prev <= envelope.seq),
        )
        .values(state="retry", due_us=now_us())
        .returning(pending.c.message_id)
    )
    return (await connection.execute(freed)).first() is not None
