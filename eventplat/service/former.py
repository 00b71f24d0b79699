"""Former: the queues that a service's handlers had before they were renamed.

Old and new release run side by side for a while, each with a queue of its own, both bound: every event comes to both,
and the inbox, which the two names share, takes it once. What the old queue still holds when the last old instance has
gone is read here. It is declared by nobody any more: where it is not there, or goes, nothing is missed.

Next: broker.consumer
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence

from eventplat.broker.consumer import Consumer
from eventplat.broker.transport import Transport
from eventplat.clock import Clock
from eventplat.lifecycle import Loop

logger = logging.getLogger(__name__)

EVERY_S = 5.0


class Former:
    """Reads `consumers`' queues, as long as they are there and their handler is not paused; the runner ends what they handle.

    Args:
        consumers: One for each former queue, by the identity of its handler.
        paused: The handlers that an operator has paused.
    """

    def __init__(
        self, transport: Transport, consumers: Mapping[str, Sequence[Consumer]], clock: Clock, *, paused: Callable[[], Collection[str]]
    ) -> None:
        self._transport, self._consumers, self._paused = transport, consumers, paused
        self._running: set[str] = set()
        self._loop = Loop("former queues", self.run_once, every_s=EVERY_S, clock=clock)

    @property
    def consumers(self) -> list[Consumer]:
        """Every one, whether it consumes or not."""
        return [consumer for consumers in self._consumers.values() for consumer in consumers]

    async def start(self) -> None:
        if self.consumers:
            await self.run_once()
            await self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()

    async def run_once(self) -> float | None:
        """Begin with queues that are there, and leave those that have gone."""
        for handler, consumers in self._consumers.items():
            for consumer in consumers:
                await self._follow(consumer, is_paused=handler in self._paused())
        return None

    async def _follow(self, consumer: Consumer, *, is_paused: bool) -> None:
        name = consumer.queue.name
        is_there = not is_paused and await self._transport.depth(name) is not None
        if is_there and name not in self._running:
            await consumer.start()
            self._running.add(name)
            logger.info("%s, a former name of this handler, is still there and is read", name)
        elif not is_there and name in self._running:
            self._running.discard(name)
            await consumer.stop()
            logger.info("%s, a former name of this handler, is %s", name, "paused" if is_paused else "gone")
