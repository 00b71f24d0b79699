"""Retention: what is settled is forgotten after a while, in small batches.

Inbox      a copy of a message is recognised for `inbox_s`. Past that, a sender that repeats itself is not.
Events     the log keeps the past for `event_log_s`; so long a new handler can have it.
Order      the last `seq` of a key that has been silent for as long as the log goes back: its next event begins anew,
           without `prev`. Watermarks go with it, and the horizon of their handlers rises to where they were cut, so
           that no event waits for one that is forgotten.
Never      what is younger than the oldest row of outbox or `pending`, which may still be sent or run.

Ids carry the time at which they were made, and primary keys begin with them: the oldest rows are found without an
index of their own. Any instance does it; rows that another deletes are passed over.

Next: storage.database
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from sqlalchemy import ColumnElement, Table, delete, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from eventplat.clock import Clock
from eventplat.lifecycle import Loop
from eventplat.messages.ids import lowest_id
from eventplat.storage.database import Database
from eventplat.transactions.inbox import inbox
from eventplat.transactions.outbox_tables import event_log, outbox, sequence
from eventplat.transactions.pending import pending
from eventplat.transactions.watermark import TAKEN, watermark

logger = logging.getLogger(__name__)

EVERY_S = 3_600.0
BATCH = 500

Delete = Callable[[AsyncConnection, int], Awaitable[int]]


class Retention:
    """Deletes what is older than it is kept for.

    Args:
        inbox_s, event_log_s: Seconds.
    """

    def __init__(self, database: Database, clock: Clock, *, inbox_s: float, event_log_s: float) -> None:
        self._database = database
        self._inbox_us, self._log_us = int(inbox_s * 1_000_000), int(event_log_s * 1_000_000)
        self._loop = Loop("retention", self.run_once, every_s=EVERY_S, clock=clock)

    async def start(self) -> None:
        await self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()

    async def run_once(self) -> float | None:
        """Delete all that is due, a batch to a transaction."""
        async with self._database.transaction(read_only=True) as connection:
            now = await self._database.now_us(connection)
            oldest = await _oldest_us(connection, now)
        inbox_us, log_us = min(now - self._inbox_us, oldest), min(now - self._log_us, oldest)
        gone = await self._all(_inbox, inbox_us) + await self._all(_events, log_us)
        gone += await self._all(_sequences, log_us) + await self._all(_watermarks, log_us)
        if gone:
            logger.info("%s: %d old rows deleted", self._database.service, gone)
        return None

    async def _all(self, some: Delete, before_us: int) -> int:
        gone, found = 0, BATCH
        while found == BATCH:
            async with self._database.transaction() as connection:
                found = await some(connection, before_us)
            gone += found
        return gone


async def _oldest_us(connection: AsyncConnection, now_us: int) -> int:
    """When the oldest message that is not sent or not settled was made."""
    found = [(await connection.execute(select(func.min(table.c.created_us)))).scalar() for table in (outbox, pending)]
    return min([us for us in found if us is not None], default=now_us)


async def _inbox(connection: AsyncConnection, before_us: int) -> int:
    return await _delete(connection, inbox, (inbox.c.message_id < lowest_id(before_us)) & (inbox.c.settled_us < before_us))


async def _events(connection: AsyncConnection, before_us: int) -> int:
    return await _delete(connection, event_log, event_log.c.id < lowest_id(before_us))


async def _sequences(connection: AsyncConnection, before_us: int) -> int:
    return await _delete(connection, sequence, sequence.c.last < before_us)


async def _watermarks(connection: AsyncConnection, before_us: int) -> int:
    is_horizon = (watermark.c.source == "") & (watermark.c.stream == "") & (watermark.c.key == "")
    is_mark = (watermark.c.source == "") & (watermark.c.stream == TAKEN)
    gone = await _delete(connection, watermark, (watermark.c.seq < before_us) & ~is_horizon & ~is_mark)
    if gone:
        await connection.execute(update(watermark).where(is_horizon, watermark.c.seq < before_us).values(seq=before_us))
    return gone


async def _delete(connection: AsyncConnection, table: Table, condition: ColumnElement[bool]) -> int:
    key = list(table.primary_key.columns)
    found = select(*key).where(condition).order_by(*key).limit(BATCH).with_for_update(skip_locked=True)
    rows = [tuple(row) for row in await connection.execute(found)]
    if rows:
        await connection.execute(delete(table).where(tuple_(*key).in_(rows)))
    return len(rows)
