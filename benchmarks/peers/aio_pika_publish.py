"""aio-pika publishing: persistent, mandatory and confirmed, a task per message in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import aio_pika

from benchmarks.program import Meter, job, order_body

given = job()
meter = Meter(given)


async def publish(exchange: Any, numbers: Iterator[int]) -> None:
    for number in numbers:
        message = aio_pika.Message(order_body(number), content_type="application/json", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await exchange.publish(message, routing_key=given.queue, mandatory=True)
        meter.tick()


async def main() -> None:
    async with await aio_pika.connect_robust(given.amqp) as connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        numbers = iter(range(given.total))
        await asyncio.gather(*(publish(channel.default_exchange, numbers) for _ in range(given.window)))
    meter.report()


asyncio.run(main())
