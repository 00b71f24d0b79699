"""Ticks: periodic functions, once per tick in the whole cluster.

A tick is claimed like a message: its inbox row is (function, id derived from the tick's number), so that of
all instances that wake at the same time one commits, and a crashed one is made up for by another within
the period. The tick's number is its fencing token: it only grows.
"""

from __future__ import annotations

import logging
from typing import Any

from eventplat.clock import Clock
from eventplat.lifecycle import Loop
from eventplat.messages.envelope import Envelope
from eventplat.messages.ids import derived_id
from eventplat.service.call import Caller
from eventplat.service.handlers import Tick
from eventplat.service.service import Service
from eventplat.transactions.unit_of_work import Transactions

logger = logging.getLogger(__name__)


class Ticker:
    """Runs the periodic functions of one service."""

    def __init__(self, service: Service[Any], transactions: Transactions, caller: Caller, clock: Clock) -> None:
        self._service, self._transactions, self._caller = service, transactions, caller
        self._loops = [
            Loop(f"{service.name} {tick.name}", self._turn(tick), every_s=tick.every_s, clock=clock) for tick in service.ticks
        ]

    async def start(self) -> None:
        for loop in self._loops:
            await loop.start()

    async def stop(self) -> None:
        for loop in self._loops:
            await loop.stop()

    def _turn(self, tick: Tick) -> Any:
        period_us = int(tick.every_s * 1_000_000)

        async def turn() -> float:
            async with self._transactions.database.transaction(read_only=True) as connection:
                now_us = await self._transactions.database.now_us(connection)
            number = now_us // period_us
            name = f"{self._service.name}.{tick.name}"
            own = derived_id(number * period_us, name, str(number))
            envelope = Envelope(id=own, type=f"{name}.v1", body=b"{}", correlation_id=own, app_id=self._service.name)
            async with self._transactions.begin(envelope) as work:
                if await work.claim(name, handler=None):
                    await self._caller.tick(tick, envelope, work, number)
            return ((number + 1) * period_us - now_us) / 1_000_000

        return turn
