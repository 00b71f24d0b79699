"""Pausing: this process follows what operators have paused and resumed.

Every two seconds it reads the paused handlers and lets their consumers, and their retries, stop or go on. It is read
before the first consumer starts too, so that a pause outlives a restart without a message slipping through. What runs when
the pause comes runs to its end; what was delivered and has not begun goes back to its queue.

Next: broker.consumer, transactions.pauses
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from eventplat.broker.consumer import Consumer
from eventplat.clock import Clock
from eventplat.lifecycle import Loop
from eventplat.storage.database import Database
from eventplat.transactions import pauses

logger = logging.getLogger(__name__)

EVERY_S = 2.0


class Pausing:
    """Which handlers of this process wait.

    Attributes:
        handlers: The identities of those that are paused, as last read.
    """

    def __init__(self, database: Database, service: str, clock: Clock) -> None:
        self.handlers: frozenset[str] = frozenset()
        self._database = database
        self._consumers: Mapping[str, Consumer] = {}
        self._loop = Loop(f"{service} pauses", self.run_once, every_s=EVERY_S, clock=clock)

    async def read(self) -> None:
        """Before anything starts: what stands paused."""
        async with self._database.transaction(read_only=True) as connection:
            self.handlers = frozenset(await pauses.paused(connection))

    async def start(self) -> None:
        await self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()

    def follow(self, consumers: Mapping[str, Consumer]) -> None:
        """Stop and start these, by the identity of their handler."""
        self._consumers = consumers

    async def run_once(self) -> float | None:
        """Bring every consumer to what the table says."""
        await self.read()
        for handler, consumer in self._consumers.items():
            if handler in self.handlers and not consumer.is_paused:
                logger.warning("%s is paused: nothing more is taken until it is resumed", handler)
                await consumer.pause()
            elif handler not in self.handlers and consumer.is_paused:
                logger.warning("%s is resumed", handler)
                await consumer.resume()
        return None
