"""Pausing: this process follows what operators have paused and resumed.

Every two seconds it reads the paused handlers and lets their consumers, and their retries, stop or go on. It is read
before the first consumer starts too, so that a pause outlives a restart without a message slipping through. What runs when
the pause comes runs to its end; what was delivered and has not begun goes back to its queue.

Next: broker.consumer, transactions.pauses
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from eventplat.clock import Clock
from eventplat.lifecycle import Loop
from eventplat.storage.database import Database
from eventplat.transactions import pauses

logger = logging.getLogger(__name__)

EVERY_S = 2.0


class Pausable(Protocol):
    """What takes a handler's messages from the broker."""

    @property
    def is_paused(self) -> bool: ...
    async def pause(self) -> None: ...
    async def resume(self) -> None: ...


class Pausing:
    """Which handlers of this process wait.

    Attributes:
        handlers: The identities of those that are paused, as last read.
    """

    def __init__(self, database: Database, service: str, clock: Clock) -> None:
        self.handlers: frozenset[str] = frozenset()
        self._database = database
        self._consumers: Mapping[str, Sequence[Pausable]] = {}
        self._loop = Loop(f"{service} pauses", self.run_once, every_s=EVERY_S, clock=clock)

    async def read(self) -> None:
        """Before anything starts: what stands paused."""
        async with self._database.transaction(read_only=True) as connection:
            self.handlers = frozenset(await pauses.paused(connection))

    async def start(self) -> None:
        await self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()

    def follow(self, consumers: Mapping[str, Sequence[Pausable]]) -> None:
        """Stop and start these, by the identity of their handler."""
        self._consumers = consumers

    async def run_once(self) -> float | None:
        """Bring every consumer to what the table says."""
        await self.read()
        for handler, consumers in self._consumers.items():
            is_paused = handler in self.handlers
            changed = [consumer for consumer in consumers if consumer.is_paused != is_paused]
            if changed:
                logger.warning("%s is paused: nothing more is taken until it is resumed" if is_paused else "%s is resumed", handler)
            for consumer in changed:
                await (consumer.pause() if is_paused else consumer.resume())
        return None
