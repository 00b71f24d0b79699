"""Consumer: one queue's deliveries, handled a bounded number at a time.

Competing consumers balance the load by themselves: the broker hands the next message to whoever has room.
Prefetch bounds what waits here, concurrency what runs.

Source    Hohpe & Woolf, Enterprise Integration Patterns (2003), Competing Consumers.

Next: service.pipeline
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from eventplat.broker.topology import Queue
from eventplat.broker.transport import Delivery, Subscription, Transport

logger = logging.getLogger(__name__)


class Consumer:
    """Runs `process` for every delivery of `queue`; `process` settles the delivery itself."""

    def __init__(
        self,
        transport: Transport,
        queue: Queue,
        process: Callable[[Delivery], Awaitable[None]],
        *,
        prefetch: int,
        concurrency: int,
    ) -> None:
        self.queue = queue
        self._transport, self._process, self._prefetch, self._concurrency = transport, process, prefetch, concurrency
        self._waiting: deque[Delivery] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._subscription: Subscription | None = None
        self._is_over = False

    @property
    def in_flight(self) -> int:
        """Deliveries being handled now."""
        return len(self._running)

    @property
    def is_active(self) -> bool:
        """Whether the broker counts this consumer."""
        return self._subscription is not None and self._subscription.is_active

    async def start(self) -> None:
        self._is_over = False
        self._subscription = await self._transport.consume(self.queue, self._receive, prefetch=self._prefetch)

    async def stop(self, within_s: float = 10.0) -> None:
        """Take nothing new, handle within `within_s` seconds what was delivered; the rest comes again elsewhere."""
        if self._subscription is not None:
            await self._subscription.cancel()
        try:
            async with asyncio.timeout(within_s):
                while self._running:
                    await asyncio.wait(self._running)
        except TimeoutError:
            logger.warning("%s: %d deliveries were not finished in %g s; they come again", self.queue.name, self.in_flight, within_s)
        self._is_over = True
        while self._waiting:
            self._waiting.pop().requeue()  # counted as a delivery: therefore only what is left in the end
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _receive(self, delivery: Delivery) -> None:
        if self._is_over:
            delivery.requeue()
        elif len(self._running) < self._concurrency:
            self._begin(delivery)
        else:
            self._waiting.append(delivery)

    def _begin(self, delivery: Delivery) -> None:
        task = asyncio.create_task(self._handle(delivery))
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if self._waiting and not self._is_over:
            self._begin(self._waiting.popleft())

    async def _handle(self, delivery: Delivery) -> None:
        try:
            await self._process(delivery)
        except (Exception, asyncio.CancelledError) as error:  # a bug of the platform: visible, and the message comes again
            if isinstance(error, asyncio.CancelledError) and self._is_over:
                raise
            logger.exception("a delivery of %s was not settled; it comes again", self.queue.name)
            delivery.requeue()
