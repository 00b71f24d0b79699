"""Held: what waits for its turn and for too long.

Every few seconds it looks at the first held event of each key that has waited for `PATIENCE_US`. Where the one it
waits for may have been sent before the handler subscribed, is not here in any state, and does not stand in the handler's
queue either, since nothing does, it is let go (see `transactions.watermark`, Skew): behind a backlog it is only late.
Anything else is told to the log, once per key and event: what waits, and for what. One dead event does not hold its
successors silently: it is replayed, or an operator skips it.

Next: transactions.watermark
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from sqlalchemy import BigInteger, and_, bindparam, func, select, tuple_, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from eventplat.clock import Clock
from eventplat.lifecycle import Loop
from eventplat.messages.envelope import Envelope
from eventplat.storage.database import Database
from eventplat.storage.tables import now_us
from eventplat.transactions import watermark
from eventplat.transactions.pending import columns_of, pending, stands_as

logger = logging.getLogger(__name__)

EVERY_S = 5.0
KEYS_MAX = 100           # looked at in one turn; the others have theirs in the next
WARNED_MAX = 10_000

_PLACE = (pending.c.handler, pending.c.source, pending.c.stream, pending.c.key)


class Held:
    """Watches the held events of one service.

    Attributes:
        is_drained: Whether nothing waits in the queues of the handler of this identity; set by who knows them.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self.is_drained: Callable[[str], Awaitable[bool]] = _nothing_waits
        self._warned: set[str] = set()      # ids of events that the log has told of
        self._loop = Loop("held", self.run_once, every_s=EVERY_S, clock=clock)

    async def start(self) -> None:
        await self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()

    async def run_once(self) -> float | None:
        """Look at the keys that wait for too long; returns 0 where there may be more of them."""
        async with self._database.transaction(read_only=True) as connection:
            handlers = {row.handler for row in await _overdue(connection, limit=KEYS_MAX)}
        if not handlers:
            return None
        drained = {handler for handler in handlers if await self.is_drained(handler)}  # the broker is asked outside a transaction
        async with self._database.transaction() as connection:
            rows = await _overdue(connection, limit=KEYS_MAX)
            kept = [row for row in sorted(rows, key=_place) if not await self._let_go(connection, row, drained)]
            await _look_again_later(connection, kept)
        return 0.0 if len(rows) == KEYS_MAX else None

    async def _let_go(self, connection: AsyncConnection, row: Any, drained: Collection[str]) -> bool:
        before = await _before(connection, row)
        if before is None:
            horizon_us = await watermark.horizon(connection, row.handler)
            is_doubtful = watermark.is_doubtful(row.prev, row.seq, row.due_us - watermark.PATIENCE_US, horizon_us)
            if is_doubtful and row.handler not in drained:
                return False
            if is_doubtful:
                logger.info("%s goes on with event %s of key %r: the one before it was sent before it subscribed",
                            row.handler, row.message_id, row.key)  # fmt: skip
                return await watermark.skip(connection, row.handler, row.message_id)
        self._warn(row, before)
        return False

    def _warn(self, row: Any, before: Any) -> None:
        if row.message_id in self._warned or (before is not None and before.state == "held"):
            return
        if len(self._warned) >= WARNED_MAX:
            self._warned.clear()
        self._warned.add(row.message_id)
        what = "which has not come" if before is None else f"event {before.message_id}, which is {before.state}"
        logger.warning(
            "%s holds event %s of key %r in stream %r from %s: it waits for seq %d, %s. Replay that one, or `eventplat dlq skip %s`",
            row.handler, row.message_id, row.key, row.stream, row.source, row.prev, what, row.message_id,
        )  # fmt: skip


async def hold(connection: AsyncConnection, handler: str, envelopes: Sequence[Envelope]) -> None:
    """Keep events, claimed and forgotten again in this transaction, until it is their turn."""
    rows = [columns_of(handler, envelope) for envelope in envelopes]
    places = [{"source": envelope.app_id or "", "stream": envelope.stream or ""} for envelope in envelopes]   # as watermarks have them
    created = [{"created": envelope.created_us or None} for envelope in envelopes]
    await connection.execute(_HOLD, [row | place | at for row, place, at in zip(rows, places, created, strict=True)])


async def _nothing_waits(_: str) -> bool:
    return True


async def _overdue(connection: AsyncConnection, *, limit: int) -> Sequence[Any]:
    """The first held event of each key with an event that waits for too long, the longest first."""
    first = (
        select(*_PLACE, func.min(pending.c.seq).label("seq"), func.min(pending.c.due_us).label("due_us"))
        .where(stands_as("held"), pending.c.due_us <= now_us())
        .group_by(*_PLACE)
        .order_by(func.min(pending.c.due_us))
        .limit(limit)
        .subquery()
    )
    same = [column.is_not_distinct_from(first.c[column.name]) for column in (*_PLACE, pending.c.seq)]
    columns = (*_PLACE, pending.c.message_id, pending.c.seq, pending.c.prev, pending.c.due_us)
    return (await connection.execute(select(*columns).join_from(first, pending, and_(stands_as("held"), *same)))).all()


async def _before(connection: AsyncConnection, row: Any) -> Any:
    """The row of the event that `row` waits for, or None where it is not here."""
    same = [column.is_not_distinct_from(getattr(row, column.name)) for column in _PLACE]
    found = select(pending.c.message_id, pending.c.state).where(*same, pending.c.seq == row.prev).limit(1)
    return (await connection.execute(found)).first()


def _place(row: Any) -> tuple[str, ...]:
    """In this order everybody locks watermarks."""
    return row.handler, row.source or "", row.stream or "", row.key or ""


async def _look_again_later(connection: AsyncConnection, rows: Sequence[Any]) -> None:
    if rows:
        keys = [(row.handler, row.message_id) for row in rows]
        later = update(pending).where(stands_as("held"), tuple_(pending.c.handler, pending.c.message_id).in_(keys))
        await connection.execute(later.values(due_us=now_us() + watermark.PATIENCE_US))


_said = ("handler", "message_id", "bucket", "type", "key", "source", "stream", "seq", "prev", "properties", "body")
_HOLD = (
    postgresql.insert(pending)
    .values(
        **{name: bindparam(name) for name in _said}, exchange="", routing_key="", state="held", attempts=0, errors="[]",
        due_us=now_us() + watermark.PATIENCE_US, created_us=func.coalesce(bindparam("created", type_=BigInteger), now_us()),
    )
    .on_conflict_do_nothing()
)
