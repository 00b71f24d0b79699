"""A consumer that changes its prefetch under load, on both brokers: everything is handled once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from eventplat.broker.consumer import Consumer
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
