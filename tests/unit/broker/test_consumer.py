"""A consumer that is stopped: what it had in hand is settled or given back, nothing stays with a process that goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from eventplat.broker.consumer import Consumer, one_by_one
from eventplat.broker.embedded import EmbeddedTransport
from eventplat.broker.embedded_broker import EmbeddedBroker
from eventplat.broker.topology import Binding, Exchange, Queue, Topology
from eventplat.broker.transport import Delivery, Outgoing
from eventplat.clock import SystemClock
from eventplat.messages.codec import Properties

QUEUE = Queue("q", bindings=(Binding("x", "k"),))


def played(process: Callable[[Delivery], Awaitable[None]], test: Callable[[EmbeddedTransport, Consumer], Awaitable[None]]) -> None:
    async def whole() -> None:
        transport = EmbeddedTransport(EmbeddedBroker(None, clock=SystemClock()), clock=SystemClock())
        await transport.open()
        await transport.declare(Topology((Exchange("x", "direct"),), (QUEUE,)))
        await transport.publish([Outgoing("x", "k", Properties(), b"%d" % number) for number in range(3)])
        consumer = Consumer(transport, QUEUE, one_by_one(process), prefetch=10, concurrency=1)
        await consumer.start()
        await test(transport, consumer)
        await transport.close()

    asyncio.run(whole())


async def taken(transport: EmbeddedTransport) -> list[tuple[bytes, int]]:
    """What the queue hands out now, and how often it had before."""
    found: list[tuple[bytes, int]] = []
    subscription = await transport.consume(QUEUE, lambda delivery: found.append((delivery.body, delivery.delivery_count)), prefetch=10)
    while len(found) < 3:
        await asyncio.sleep(0)
    await subscription.cancel()
    return found


def test_what_is_cut_off_and_what_has_not_begun_come_again_while_the_process_goes_on() -> None:
    began: list[bytes] = []

    async def process(delivery: Delivery) -> None:
        began.append(delivery.body)
        await asyncio.Event().wait()

    async def test(transport: EmbeddedTransport, consumer: Consumer) -> None:
        while not began:
            await asyncio.sleep(0)
        await consumer.stop(0)
        assert await taken(transport) == [(b"0", 1), (b"1", 1), (b"2", 1)]
        assert began == [b"0"]

    played(process, test)


def test_what_was_settled_before_it_was_cut_off_stays_settled() -> None:
    acked: list[bytes] = []

    async def process(delivery: Delivery) -> None:
        delivery.ack()
        acked.append(delivery.body)
        if len(acked) == 3:
            await asyncio.Event().wait()

    async def test(transport: EmbeddedTransport, consumer: Consumer) -> None:
        while len(acked) < 3:
            await asyncio.sleep(0)
        await consumer.stop(0)
        await asyncio.sleep(0)
        assert await transport.depth(QUEUE.name) == 0

    played(process, test)


def test_deliveries_of_one_key_run_one_after_the_other_and_other_keys_beside_them() -> None:
    together: list[set[str]] = []
    running: dict[str, bytes] = {}
    handled: list[bytes] = []

    async def process(delivery: Delivery) -> None:
        key = delivery.properties.headers["key"]
        assert key not in running, "two of one key at once"
        running[key] = delivery.body
        together.append(set(running))
        for _ in range(3):
            await asyncio.sleep(0)
        del running[key]
        handled.append(delivery.body)
        delivery.ack()

    async def whole() -> None:
        transport = EmbeddedTransport(EmbeddedBroker(None, clock=SystemClock()), clock=SystemClock())
        await transport.open()
        await transport.declare(Topology((Exchange("x", "direct"),), (QUEUE,)))
        keys = ["a", "a", "a", "b", "a", "c", "b", "c"]
        await transport.publish([
            Outgoing("x", "k", Properties(headers={"key": key}), b"%s%d" % (key.encode(), number)) for number, key in enumerate(keys)
        ])  # fmt: skip
        consumer = Consumer(
            transport, QUEUE, one_by_one(process), prefetch=10, concurrency=2, key_of=lambda delivery: delivery.properties.headers["key"]
        )
        await consumer.start()
        while len(handled) < len(keys):
            await asyncio.sleep(0)
        await consumer.stop()
        await transport.close()

    asyncio.run(whole())

    assert {"a", "b"} in together
    assert max(map(len, together)) == 2
    for key in (b"a", b"b", b"c"):
        of_key = [body for body in handled if body[:1] == key]
        assert of_key == sorted(of_key)


def test_a_batch_takes_all_that_wait_of_its_keys_and_none_of_a_running_batchs() -> None:
    running: set[str] = set()
    batches: list[list[bytes]] = []

    async def process(deliveries: Sequence[Delivery]) -> None:
        keys = {delivery.properties.headers["key"] for delivery in deliveries}
        assert not keys & running, "one key in two batches at once"
        running.update(keys)
        batches.append([delivery.body for delivery in deliveries])
        for _ in range(3):
            await asyncio.sleep(0)
        running.difference_update(keys)
        for delivery in deliveries:
            delivery.ack()

    async def whole() -> None:
        transport = EmbeddedTransport(EmbeddedBroker(None, clock=SystemClock()), clock=SystemClock())
        await transport.open()
        await transport.declare(Topology((Exchange("x", "direct"),), (QUEUE,)))
        keys = ["a", "a", "a", "a", "b", "a", "c", "b", "c"]
        await transport.publish([
            Outgoing("x", "k", Properties(headers={"key": key}), b"%s%d" % (key.encode(), number)) for number, key in enumerate(keys)
        ])  # fmt: skip
        consumer = Consumer(
            transport, QUEUE, process, prefetch=10, concurrency=2, batch=3, key_of=lambda delivery: delivery.properties.headers["key"]
        )
        await consumer.start()
        while sum(map(len, batches)) < len(keys):
            await asyncio.sleep(0)
        await consumer.stop()
        await transport.close()

    asyncio.run(whole())

    assert batches == [[b"a0", b"a1", b"a2"], [b"b4", b"c6", b"b7"], [b"a3", b"a5"], [b"c8"]]
