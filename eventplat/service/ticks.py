"""Ticks: periodic functions, once per tick in the whole cluster.

A tick is claimed by moving the function's row of `tick` up to it, in the transaction that runs the function: of all
instances that wake at the same time one commits, a crashed one is made up for by another, and what was missed while
nobody ran is one tick. The row outlives the inbox's memory: a function that runs once a year does so.

Next: service.schedule
"""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy import BigInteger, Column, Table, Text, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from eventplat.clock import Clock
from eventplat.hashing import bucket_of
from eventplat.lifecycle import Loop
from eventplat.messages.envelope import Envelope
from eventplat.messages.ids import derived_id
from eventplat.service.call import Caller
from eventplat.service.handler import Tick
from eventplat.service.service import Service
from eventplat.storage.tables import bucket, platform
from eventplat.transactions.unit_of_work import Transactions

logger = logging.getLogger(__name__)

SLEEP_S_MAX = 3_600.0    # then the database's clock is read again: this process's may run otherwise

ticks = Table(
    "eventplat_tick",
    platform,
    Column("name", Text, primary_key=True),
    bucket(),
    Column("last_us", BigInteger, nullable=False),     # the tick that ran last, or when the function was first seen
)


class Ticker:
    """Runs the periodic functions of one service."""

    def __init__(self, service: Service[Any], transactions: Transactions, caller: Caller, clock: Clock) -> None:
        self._service, self._transactions, self._caller = service, transactions, caller
        self._loops = [
            Loop(f"{service.name} {tick.name}", self._turn(tick), every_s=SLEEP_S_MAX, clock=clock) for tick in service.ticks
        ]

    async def start(self) -> None:
        for loop in self._loops:
            await loop.start()

    async def stop(self) -> None:
        for loop in self._loops:
            await loop.stop()

    def _turn(self, tick: Tick) -> Any:
        name, database = f"{self._service.name}.{tick.name}", self._transactions.database

        async def turn() -> float:
            async with database.transaction(read_only=True) as connection:
                now_us, last_us = await database.now_us(connection), await _last(connection, name)
            due_us = tick.schedule.latest(last_us, now_us)
            if due_us is not None:
                await self._run(tick, name, due_us)
            elif last_us is None:
                async with database.transaction() as connection:
                    await _move(connection, name, now_us)
            following_us = tick.schedule.following(last_us if due_us is None else due_us, now_us)
            return min(max(following_us - now_us, 0) / 1_000_000, SLEEP_S_MAX)

        return turn

    async def _run(self, tick: Tick, name: str, due_us: int) -> None:
        own = derived_id(due_us, name, str(due_us))
        envelope = Envelope(id=own, type=f"{name}.v1", body=b"{}", correlation_id=own, app_id=self._service.name)
        async with self._transactions.begin(envelope) as work:
            if await _move(work.connection, name, due_us):
                await self._caller.tick(tick, envelope, work, due_us)


async def _last(connection: AsyncConnection, name: str) -> int | None:
    last: int | None = (await connection.execute(select(ticks.c.last_us).where(ticks.c.name == name))).scalar()
    return last


async def _move(connection: AsyncConnection, name: str, to_us: int) -> bool:
    """Take the tick at `to_us` for this transaction; False where it, or a later one, is taken."""
    row = postgresql.insert(ticks).values(name=name, bucket=bucket_of(name), last_us=to_us)
    forward = row.on_conflict_do_update(
        index_elements=[ticks.c.name], set_={"last_us": row.excluded.last_us}, where=ticks.c.last_us < row.excluded.last_us
    )
    return (await connection.execute(forward.returning(ticks.c.name))).first() is not None
