"""A consumer that changes its prefetch under load, on both brokers: everything is handled once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from eventplat.broker.consumer import Consumer
from eventplat.broker.prefetch import SAMPLES
from eventplat.broker.transport import Delivery
from eventplat.clock import SystemClock
from tests.conformance.brokers import Corner, bodies, conformance, numbered

COUNT = 300


@conformance
async def test_a_quick_consumer_comes_to_hold_what_is_configured_and_loses_nothing_on_the_way(corner: Corner) -> None:
    queue, write = await corner.direct()
    handled: list[bytes] = []
    all_done = asyncio.Event()

    async def process(deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            await asyncio.sleep(0)
            handled.append(delivery.body)
            delivery.ack()
        if len(handled) == COUNT:
            all_done.set()

    await corner.publish(*numbered(write, COUNT))
    consumer = Consumer(corner.transport, queue, process, prefetch=64, concurrency=1, clock=SystemClock())
    await consumer.start()
    await asyncio.wait_for(all_done.wait(), 20)
    assert consumer._measured.current == 64
    assert consumer.is_active
    await consumer.stop()

    assert sorted(handled) == sorted(bodies(COUNT))
    assert await corner.left_in(queue) == []


@conformance
async def test_a_consumer_that_is_paused_while_its_prefetch_changes_takes_nothing_more(corner: Corner) -> None:
    queue, write = await corner.direct()
    handled: list[bytes] = []
    all_done = asyncio.Event()

    async def process(deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            await asyncio.sleep(0)
            handled.append(delivery.body)
            delivery.ack()
        if len(handled) == COUNT:
            all_done.set()

    await corner.publish(*numbered(write, COUNT))
    consumer = Consumer(corner.transport, queue, process, prefetch=64, concurrency=1, clock=SystemClock())
    await consumer.start()
    async with asyncio.timeout(20):
        while consumer._changing is None or consumer._changing.done():
            assert len(handled) < COUNT, "it never changed"
            await asyncio.sleep(0)
    await consumer.pause()
    async with asyncio.timeout(20):
        while consumer.in_flight:
            await asyncio.sleep(0)

    assert not consumer.is_active
    await corner.until_depth(queue, COUNT - len(handled))
    await consumer.resume()
    await asyncio.wait_for(all_done.wait(), 20)
    await consumer.stop()
    assert sorted(handled) == sorted(bodies(COUNT))


@conformance
async def test_what_is_handled_while_a_consumer_stops_does_not_make_it_consume_again(corner: Corner) -> None:
    queue, write = await corner.direct()
    begun, go_on = asyncio.Event(), asyncio.Event()
    handled: list[bytes] = []

    async def process(deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            handled.append(delivery.body)
            if len(handled) == SAMPLES:  # after this one the prefetch would change
                begun.set()
                await go_on.wait()
            delivery.ack()

    await corner.publish(*numbered(write, SAMPLES))
    consumer = Consumer(corner.transport, queue, process, prefetch=64, concurrency=1, clock=SystemClock())
    await consumer.start()
    await begun.wait()
    stopping = asyncio.create_task(consumer.stop())
    while consumer.is_active:
        await asyncio.sleep(0)
    go_on.set()
    await stopping

    assert consumer._measured.current == 2
    await corner.publish(write(b"later"))
    assert await corner.left_in(queue) == [b"later"]
