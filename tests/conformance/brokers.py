"""Brokers: one test's own corner of a broker, so that one suite runs on both transports.

A `Corner` has names of its own, opens transports on one broker, and leaves nothing behind. Waiting is
always for a condition; what never comes fails after `PATIENCE_S` with what was there instead.
"""

from __future__ import annotations

import asyncio
import functools
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, cast

from eventplat.broker.topology import Binding, Exchange, Queue, Topology
from eventplat.broker.transport import Delivery, Outcome, Outgoing, Subscription, Transport
from eventplat.messages.codec import Properties

P = ParamSpec("P")

PATIENCE_S = 20.0


class Broker(Protocol):
    """One kind of broker."""

    kind: str

    def transport(self, *, patience_s: float = 10.0) -> Transport:
        """A transport that is not open yet, on the same broker each time; `patience_s` bounds its connecting."""
        ...

    async def crash(self, transports: Sequence[Transport]) -> None:
        """End them as kill -9 would, once the broker has heard of what they settled."""
        ...

    def clean(self, topology: Topology) -> None:
        """Delete what a test declared."""
        ...


class Received:
    """What one subscription brought; `settle` is called for each."""

    def __init__(self, settle: Callable[[Delivery], None] | None = None) -> None:
        self.deliveries: list[Delivery] = []
        self._settle, self._arrived = settle, asyncio.Event()

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self._arrived.set()
        if self._settle is not None:
            self._settle(delivery)

    def __len__(self) -> int:
        return len(self.deliveries)

    def __getitem__(self, index: int) -> Delivery:
        return self.deliveries[index]

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.body for delivery in self.deliveries]

    @property
    def counts(self) -> list[int]:
        return [delivery.delivery_count for delivery in self.deliveries]

    async def reach(self, count: int) -> list[Delivery]:
        """Wait until `count` deliveries have come."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while len(self.deliveries) < count:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            raise AssertionError(f"{len(self.deliveries)} of {count} deliveries came: {self.bodies[:20]}") from None
        return self.deliveries


class Corner:
    """Names, an open transport and a few moves that most tests make."""

    def __init__(self, broker: Broker) -> None:
        self.broker, self.kind = broker, broker.kind
        self.prefix = f"test-{uuid.uuid4().hex[:12]}"
        self.declared = Topology()
        self.transport: Transport = broker.transport()
        self._others: list[Transport] = []
        self._names = 0

    async def open(self) -> None:
        await self.transport.open()

    async def close(self) -> None:
        for transport in [*self._others, self.transport]:
            await transport.close()

    async def another(self) -> Transport:
        """A second party on the same broker, gone with the corner."""
        transport = self.broker.transport()
        await transport.open()
        self._others.append(transport)
        return transport

    async def crash(self) -> None:
        """As a process that was killed and started again."""
        await self.broker.crash([*self._others, self.transport])
        self._others.clear()
        self.transport = self.broker.transport()
        await self.transport.open()

    async def reopen(self) -> None:
        """As a process that stopped and started again."""
        await self.transport.close()
        self.transport = self.broker.transport()
        await self.transport.open()

    def name(self, word: str) -> str:
        self._names += 1
        return f"{self.prefix}.{word}{self._names}"

    async def exchange(self, kind: Literal["topic", "direct", "fanout"] = "topic") -> Exchange:
        exchange = Exchange(self.name(kind), kind)
        await self.declare(Topology((exchange,)))
        return exchange

    async def queue(
        self, exchange: Exchange | None = None, *routing_keys: str, type: Literal["quorum", "classic"] = "quorum",  # noqa: A002
        single_active: bool = False, dead_letter: Binding | None = None,
    ) -> Queue:
        """A declared queue, bound by each of `routing_keys`."""
        bindings = tuple(Binding(exchange.name, key) for key in routing_keys) if exchange else ()
        queue = Queue(self.name("queue"), type, bindings, single_active, dead_letter)
        await self.declare(Topology((), (queue,)))
        return queue

    async def direct(self, **options: Any) -> tuple[Queue, Callable[..., Outgoing]]:
        """A queue behind a direct exchange, and how to write a message to it."""
        exchange = await self.exchange("direct")
        queue = await self.queue(exchange, "k", **options)
        return queue, functools.partial(outgoing, exchange, "k")

    async def declare(self, topology: Topology) -> None:
        self.declared |= topology
        await self.transport.declare(topology)

    async def publish(self, *messages: Outgoing) -> list[Outcome]:
        return await self.transport.publish(messages)

    async def consume(
        self, queue: Queue, settle: Callable[[Delivery], None] | None = None, *, prefetch: int = 100
    ) -> tuple[Received, Subscription]:
        received = Received(settle)
        return received, await self.transport.consume(queue, received, prefetch=prefetch)

    async def take(self, queue: Queue, count: int) -> list[Delivery]:
        """The first `count` deliveries of `queue`, acked, and the consumer gone again."""
        received, subscription = await self.consume(queue, prefetch=count)
        await received.reach(count)
        await subscription.cancel()
        for delivery in received.deliveries:
            delivery.ack()
        return received.deliveries

    async def left_in(self, queue: Queue) -> list[bytes]:
        """What `queue` still holds ready, in order, taken out."""
        depth = await self.transport.depth(queue.name)
        return [delivery.body for delivery in await self.take(queue, depth)] if depth else []

    async def until_depth(self, queue: Queue | str, depth: int | None) -> None:
        """Wait until `queue` holds `depth` ready messages."""
        name = queue if isinstance(queue, str) else queue.name
        await until(lambda: self.transport.depth(name), depth, f"the depth of {name}")


def outgoing(
    exchange: Exchange | str, routing_key: str, body: bytes | str = b"{}", *,
    mandatory: bool = True, persistent: bool = True, **properties: object,
) -> Outgoing:
    """A message with an id of its own."""
    named = {"message_id": str(uuid.uuid4()), "type": "tests.thing.v1", "content_type": "application/json", **properties}
    return Outgoing(
        exchange if isinstance(exchange, str) else exchange.name, routing_key,
        Properties(**named),  # type: ignore[arg-type]
        body.encode() if isinstance(body, str) else body, mandatory, persistent,
    )


async def until(probe: Callable[[], Awaitable[object]], expected: object, what: str) -> None:
    """Ask until the answer is `expected`."""
    found: object = None
    try:
        async with asyncio.timeout(PATIENCE_S):
            while (found := await probe()) != expected:
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{what} stayed {found!r}, expected {expected!r}") from None


def conformance(test: Callable[Concatenate[Corner, P], Awaitable[None]]) -> Callable[Concatenate[Corner, P], None]:
    """Run an async test on a loop of its own, with its corner open, and clean up after it."""

    async def run(corner: Corner, *args: P.args, **kwargs: P.kwargs) -> None:
        await corner.open()
        try:
            await test(corner, *args, **kwargs)
        finally:
            await corner.close()
            corner.broker.clean(corner.declared)

    @functools.wraps(test)
    def wrapper(corner: Corner, *args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(run(corner, *args, **kwargs))

    return cast("Callable[Concatenate[Corner, P], None]", wrapper)


def ack(delivery: Delivery) -> None:
    delivery.ack()


def numbered(write: Callable[[bytes], Outgoing], count: int) -> list[Outgoing]:
    return [write(b"%d" % number) for number in range(count)]


def bodies(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]
