"""Watermark: which event of a key an ordered handler has applied last.

Per (handler, source, stream, key). An event carries `seq`, its producer's clock when it was sent, and `prev`, the
`seq` that it follows. What comes here is claimed in the inbox in the same transaction, so it is never a copy:
whatever `advance` decides, the event is applied, now or later, and once.

Apply     `prev` is null, at or below the watermark, or below the horizon: the handler never gets that one.
Late      `seq` is at or below the watermark: its successor did not wait for it, because it stood below the horizon
          or was skipped. Applied all the same; the watermark stays.
Wait      anything else is held in `pending`, in the transaction that holds the watermark's lock, so that the one it
          waits for cannot slip by. Applying that one releases it (`release`).

Horizon   when the handler subscribed, on its own database's clock, taken after its queue was bound. What was sent
          between the two is in the queue, applied and in no order; above the horizon order is strict.
Skew      `prev` is on the producer's clock. Where ours is behind, an event may follow one that was sent before the
          queue was bound and seem to follow one that must come. So the horizon has a doubtful band above it: a minute,
          plus what the event's own `seq` is ahead of us. There, who waits for one that has not come here in
          any state is let go after `PATIENCE_US`, once nothing stands in the handler's queue: behind a backlog that one is
          only late. Above the band it waits until that one comes, or is skipped.
Skip      moves the watermark up to what a held event waits for: by patience, or by an operator where that one is
          dead. `transactions.held` warns of everything that waits for longer than `PATIENCE_US`.

Versions  old and new code of a handler share its watermark. What the new one takes is written down here (`take`), so that
          the old one leaves it to `pending` instead of passing it over as another event of the stream.

No dense counter: filters, late subscribers and two producers of one key would wait for ever.

Next: transactions.held
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Table,
    Text,
    and_,
    bindparam,
    case,
    func,
    or_,
    select,
    update,
)  # fmt: skip
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from eventplat.hashing import bucket_of
from eventplat.messages.envelope import Envelope
from eventplat.storage.tables import bucket, now_us, one_of, platform
from eventplat.transactions.pending import ISOLATED, pending, stands_as

PATIENCE_US = 30_000_000
BAND_US = 60_000_000

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

TAKEN = "*"             # the stream of rows that say what types a handler takes; no stream is called so

Turn = Literal["apply", "wait"]


async def subscribe(connection: AsyncConnection, handler: str) -> int:
    """The horizon of `handler`, whose queue is bound: recorded at its first start, then read."""
    row = postgresql.insert(watermark).values(handler=handler, source="", stream="", key="", bucket=0, seq=now_us())
    await connection.execute(row.on_conflict_do_nothing())
    return await horizon(connection, handler)


async def horizon(connection: AsyncConnection, handler: str) -> int:
    """When `handler` subscribed, on the database's clock; 0 where it never did."""
    found = select(watermark.c.seq).where(*at(handler, "", "", ""))
    return (await connection.execute(found)).scalar() or 0


async def take(connection: AsyncConnection, handler: str, types: Sequence[str]) -> None:
    """Note that this release of `handler` takes events of these types: an older one beside it must not pass them over.

    Args:
        types: Wire types, `*` for any owner.
    """
    rows = [{"handler": handler, "source": "", "stream": TAKEN, "key": type_, "bucket": 0} for type_ in sorted(types)]
    await connection.execute(postgresql.insert(watermark).values(seq=now_us()).on_conflict_do_nothing(), rows)


async def is_taken(connection: AsyncConnection, handler: str, type_: str) -> bool:
    """Whether a release of `handler` takes events of `type_`."""
    any_owner = f"*.{type_.partition('.')[2]}"
    found = select(watermark.c.seq).where(
        watermark.c.handler == handler, watermark.c.source == "", watermark.c.stream == TAKEN, watermark.c.key.in_((type_, any_owner))
    )
    return (await connection.execute(found)).first() is not None


async def advance(connection: AsyncConnection, handler: str, envelope: Envelope) -> Turn:
    """Lock the key's watermark and say what to do with `envelope`; "apply" moves it up."""
    if envelope.key is None or envelope.seq is None:
        return "apply"
    row = {
        "handler": handler, "source": envelope.app_id or "", "stream": envelope.stream or "", "key": envelope.key,
        "bucket": bucket_of(envelope.key), "seq_": envelope.seq, "prev_": envelope.prev,
    }  # fmt: skip
    reached: int = (await connection.execute(_ADVANCE, row)).scalar_one()
    if reached < envelope.seq:
        return "wait"
    return "apply"


async def release(connection: AsyncConnection, handler: str, envelope: Envelope) -> bool:
    """Make due what waited for `envelope`; whether there was anything."""
    if envelope.key is None or envelope.seq is None:
        return False
    return await _free(connection, handler, envelope.app_id or "", envelope.stream or "", envelope.key, envelope.seq)


async def skip(connection: AsyncConnection, handler: str, message_id: str) -> bool:
    """Let a held event go without what it waits for, which is applied late should it still come.

    Returns:
        False where no such event is held.
    """
    found = select(pending).where(stands_as("held"), pending.c.handler == handler, pending.c.message_id == message_id)
    row = (await connection.execute(found)).first()
    if row is None or row.key is None or row.prev is None:
        return False
    place = (handler, row.source or "", row.stream or "", row.key)
    if await lock(connection, *place) < row.prev:
        await connection.execute(update(watermark).where(*at(*place)).values(seq=row.prev))
    return await _free(connection, *place, row.prev)


def is_doubtful(prev: int, seq: int, held_us: int, horizon_us: int) -> bool:
    """Whether the event at `prev` may have been sent before the handler subscribed, as far as the clocks tell.

    Args:
        seq: Of the event that was held for it, at `held_us` on our clock.
    """
    return prev < horizon_us + BAND_US + max(seq - held_us, 0)


async def lock(connection: AsyncConnection, handler: str, source: str, stream: str, key: str) -> int:
    """The watermark of a key, locked until the transaction ends; -1 where nothing has been applied."""
    row = postgresql.insert(watermark).values(handler=handler, source=source, stream=stream, key=key, bucket=bucket_of(key), seq=-1)
    await connection.execute(row.on_conflict_do_nothing())
    found = select(watermark.c.seq).where(*at(handler, source, stream, key)).with_for_update()
    last: int = (await connection.execute(found)).scalar_one()
    return last


async def _free(connection: AsyncConnection, handler: str, source: str, stream: str, key: str, reached: int) -> bool:
    held = held_at(handler, source, stream, key)
    freed = update(pending).where(*held, or_(pending.c.prev.is_(None), pending.c.prev <= reached)).values(**_DUE)
    return (await connection.execute(freed.returning(pending.c.message_id))).first() is not None


async def make_due(connection: AsyncConnection, handler: str, ids: Sequence[str]) -> None:
    """Let these held events of `handler` run from `pending`."""
    if ids:
        held = (stands_as("held"), pending.c.handler == handler, one_of(connection, pending.c.message_id, ids))
        await connection.execute(update(pending).where(*held).values(**_DUE))


def held_at(handler: str, source: str, stream: str, key: str) -> tuple[ColumnElement[bool], ...]:
    """The condition that an event of this key is held."""
    of_source = or_(pending.c.source == source, pending.c.source.is_(None))
    return stands_as("held"), pending.c.handler == handler, pending.c.stream == stream, pending.c.key == key, of_source


def at(handler: str, source: str, stream: str, key: str) -> tuple[ColumnElement[bool], ...]:
    return (watermark.c.handler == handler, watermark.c.source == source, watermark.c.stream == stream, watermark.c.key == key)


# One that may kill its process runs alone, as it was to before it was held; those that are let go together go by their `seq`
_DUE = {"state": case((pending.c.error == ISOLATED, "isolated"), else_="retry"), "due_us": select(now_us()).scalar_subquery()}

_prev, _seq = bindparam("prev_", type_=BigInteger), bindparam("seq_", type_=BigInteger)
_subscribed = watermark.alias("subscribed")
_horizon = func.coalesce(
    select(_subscribed.c.seq)
    .where(_subscribed.c.handler == bindparam("handler"), _subscribed.c.source == "", _subscribed.c.stream == "", _subscribed.c.key == "")
    .scalar_subquery(),
    0,
)
_follows_nothing = or_(_prev.is_(None), _prev < 0, _prev < _horizon)
# Locks the row, moves it up where the event may be applied, and says where it stands then
_ADVANCE = (
    postgresql.insert(watermark)
    .values(
        **{name: bindparam(name) for name in ("handler", "source", "stream", "key", "bucket")},
        seq=case((_follows_nothing, _seq), else_=-1),
    )
    .on_conflict_do_update(
        index_elements=[watermark.c.handler, watermark.c.source, watermark.c.stream, watermark.c.key],
        set_={"seq": case((and_(_seq > watermark.c.seq, or_(_follows_nothing, _prev <= watermark.c.seq)), _seq), else_=watermark.c.seq)},
    )
    .returning(watermark.c.seq)
)
