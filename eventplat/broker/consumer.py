"""Consumer: one queue's deliveries, handled a bounded number at a time.

Competing consumers balance the load by themselves: the broker hands the next message to whoever has room.
Prefetch bounds what waits here, concurrency what runs; it follows the measured handling time, so that a slow instance
holds little that a faster one could begin (`broker.prefetch`). With `batch`, what has come in one turn of the loop is
handled together; nobody waits for more to come.

Source    Hohpe & Woolf, Enterprise Integration Patterns (2003), Competing Consumers.

Next: service.pipeline
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context

from eventplat.broker.prefetch import Prefetch
from eventplat.broker.topology import Queue
from eventplat.broker.transport import Delivery, Subscription, Transport
from eventplat.clock import Clock, SystemClock
from eventplat.errors import BrokerError
from eventplat.observability.metrics import HANDLING

logger = logging.getLogger(__name__)

CHANGE_S = 10.0     # as long as consuming anew may take

Process = Callable[[Sequence[Delivery]], Awaitable[None]]


def one_by_one(process: Callable[[Delivery], Awaitable[None]]) -> Process:
    """For a consumer without batches: `process` gets the one delivery."""

    async def each(deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            await process(delivery)

    return each


class Consumer:
    """Runs `process` for the deliveries of `queue`, at most `batch` at a time; `process` settles each of them.

    Args:
        prefetch: Deliveries held at a time, at most.
        clock: Measures how long they are handled, which the prefetch follows. None: it stays as it is, as it must where
            one consumer of several is active, since each change passes the turn on.
        key_of: What is to be handled one after the other, as it came: deliveries of one key never run side by side. None,
            or a key that is None: everything may.
    """

    def __init__(
        self, transport: Transport, queue: Queue, process: Process, *, prefetch: int, concurrency: int, batch: int = 1,
        clock: Clock | None = None, key_of: Callable[[Delivery], object] | None = None,
    ) -> None:  # fmt: skip
        self.queue = queue
        self._transport, self._process = transport, process
        self._prefetch, self.concurrency, self._batch = prefetch, concurrency, batch
        self._waiting: deque[Delivery] = deque()
        self._running: dict[asyncio.Task[None], Sequence[Delivery]] = {}
        self._key_of, self._busy = key_of, set[object]()
        self._subscription: Subscription | None = None
        self._clock, self._is_adapting = clock or SystemClock(), clock is not None
        self._measured = Prefetch(slots=concurrency, batch=batch, most=prefetch)
        self._handling = HANDLING.labels(queue.name)
        self._changing: asyncio.Task[None] | None = None
        self._is_beginning = self._waits = False
        self._is_leaving = self._is_over = False
        self.is_paused = False

    @property
    def queues(self) -> tuple[str, ...]:
        """The names of the queues that it is there for."""
        return (self.queue.name,)

    @property
    def in_flight(self) -> int:
        """Deliveries that are here: being handled, or about to be."""
        return len(self._waiting) + sum(len(deliveries) for deliveries in self._running.values())

    @property
    def is_active(self) -> bool:
        """Whether the broker counts this consumer."""
        return self._subscription is not None and self._subscription.is_active

    async def start(self) -> None:
        self._is_leaving = self._is_over = self._is_beginning = False
        self._context = copy_context()   # what every delivery begins with, whoever's it comes in
        prefetch = self._measured.current if self._is_adapting else self._prefetch
        self._subscription = await self._transport.consume(self.queue, self._receive, prefetch=prefetch)

    async def pause(self) -> None:
        """Take nothing new and give back what has not begun; what runs goes on. Also before the start."""
        self.is_paused = True
        try:
            await self._end_change(CHANGE_S)
            subscription, self._subscription = self._subscription, None
            if subscription is not None:
                await subscription.cancel()  # first: what is given back would be delivered here again
        finally:
            while self._waiting:
                self._waiting.pop().give_back()

    async def resume(self) -> None:
        """Go on where `pause` stopped.

        Raises:
            BrokerUnavailable: It is still paused.
        """
        await self.start()
        self.is_paused = False
        self._begin()

    async def stop(self, within_s: float = 10.0) -> None:
        """Take nothing new, handle within `within_s` seconds what was delivered; the rest comes again elsewhere."""
        await self._end_change(within_s)
        if self._subscription is not None:
            await self._subscription.cancel()
        try:
            async with asyncio.timeout(within_s):
                while self._waiting or self._running:
                    self._begin()
                    await asyncio.wait(self._running)
        except TimeoutError:
            logger.warning("%s: %d deliveries were not finished in %g s; they come again", self.queue.name, self.in_flight, within_s)
        self._is_over = True
        while self._waiting:
            self._waiting.pop().requeue()  # counted as a delivery: therefore only what is left in the end
        cut_off = dict(self._running)
        for task in cut_off:
            task.cancel()
        await asyncio.gather(*cut_off, return_exceptions=True)
        self._running.clear()   # of those that never began
        for deliveries in cut_off.values():
            for delivery in deliveries:
                delivery.requeue()  # where the process goes on, the broker would wait for it; what was settled stays settled

    def _receive(self, delivery: Delivery) -> None:
        if self._is_over:
            delivery.requeue()
            return
        self._waiting.append(delivery)
        self._begin()

    def _begin(self) -> None:
        """Let what waits be handled from the next turn of the loop on: what else has come in this one is there then.

        One task is enough for handlers that never wait. Where they do, all that there is room for begin in one turn: a turn apart
        they would come to the database, and with their acks to the broker, one by one.
        """
        if self._is_beginning or self._is_over or self.is_paused:
            return
        wanted = math.ceil(len(self._waiting) / self._batch) if self._waits else min(len(self._waiting), 1)
        for _ in range(min(wanted, self.concurrency - len(self._running))):
            self._is_beginning = True
            self._running[asyncio.create_task(self._work(), context=self._context.copy())] = ()

    async def _work(self) -> None:
        """Handle what waits, one after the other; as soon as this has to wait itself, the next one is handled beside it.

        A task for each delivery would cost more than its decoding. What a task of its own would keep from the next one, a
        context variable that was set, a cancellation, ends this one.
        """
        self._is_beginning = False
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it is one
        is_spoilt = False
        try:
            while not (is_spoilt or self._is_over or self.is_paused) and (taken := self._next()):
                self._running[task] = taken
                self._begin()
                another = self._is_beginning
                await self._handle(taken)
                if another:
                    self._waits = not self._is_beginning   # it began meanwhile
                if self._key_of is not None:
                    self._busy.difference_update(map(self._key_of, taken))
                is_spoilt = task.cancelling() > 0 or _has_left(self._context)
        finally:
            del self._running[task]
        if is_spoilt:
            self._begin()

    def _next(self) -> list[Delivery]:
        """The first that wait for none of their keys, up to a batch; of one key, all or the first of them."""
        if self._key_of is None:
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), self._batch))]
        taken, keys, passed = list[Delivery](), set[object](), list[Delivery]()
        while self._waiting and len(taken) < self._batch:
            delivery = self._waiting.popleft()
            key = self._key_of(delivery)
            if key is not None and key in self._busy:
                passed.append(delivery)
                continue
            taken.append(delivery)
            keys.add(key)
        self._waiting.extendleft(reversed(passed))
        self._busy |= keys - {None}
        return taken

    async def _handle(self, deliveries: Sequence[Delivery]) -> None:
        began = self._clock.monotonic()
        try:
            await self._process(deliveries)
        except (Exception, asyncio.CancelledError) as error:  # a bug of the platform: visible, and the message comes again
            if isinstance(error, asyncio.CancelledError) and self._is_over:
                raise
            logger.exception("%d deliveries of %s were not settled; they come again", len(deliveries), self.queue.name)
            for delivery in deliveries:
                delivery.requeue()
        else:
            ended = self._clock.monotonic()
            self._handling.observe(ended - began)
            if self._is_adapting:
                self._measure(len(deliveries), began, ended)

    def _measure(self, deliveries: int, began: float, ended: float) -> None:
        self._measured.handled(deliveries, ended - began)
        if self._is_leaving or (self._changing is not None and not self._changing.done()):
            return
        held = self._measured.current
        if (prefetch := self._measured.change(ended)) is not None:
            self._changing = asyncio.create_task(self._hold(prefetch, held), name=f"prefetch of {self.queue.name}")

    async def _end_change(self, within_s: float) -> None:
        """No other prefetch from now on. A change is heard out: cut off between two subscriptions it would leave one behind."""
        self._is_leaving = True
        if self._changing is not None:
            await asyncio.wait({self._changing}, timeout=within_s)
            self._changing.cancel()

    async def _hold(self, prefetch: int, held: int) -> None:
        """Go on with another prefetch: the broker takes one with a new consumer only. What was delivered stays here."""
        before = self._subscription
        try:
            self._subscription = await self._transport.consume(self.queue, self._receive, prefetch=prefetch)
        except BrokerError as error:  # the one before it comes back by itself
            logger.info("%s goes on with a prefetch of %d: %s", self.queue.name, held, error)
            self._measured.current = held
            return
        if before is not None:
            await before.cancel()


def _has_left(context: Context) -> bool:
    """Whether a context variable is another one than in `context`."""
    try:
        return copy_context() != context
    except Exception:  # two values of one, which cannot be compared
        return True
