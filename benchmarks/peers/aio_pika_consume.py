"""aio-pika consuming: `message.process()`, a pydantic model per message."""

from __future__ import annotations

import asyncio
from typing import Any

import aio_pika
from pydantic import BaseModel

from benchmarks.program import Meter, job


class Order(BaseModel):
    order_id: str
    sku: str
    quantity: int
    note: str


given = job()
meter = Meter(given)
over = asyncio.Event()


async def consume(message: Any) -> None:
    async with message.process():
        Order.model_validate_json(message.body)
    if meter.tick():
        over.set()


async def main() -> None:
    async with await aio_pika.connect_robust(given.amqp) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=given.window)
        queue = await channel.get_queue(given.queue)
        await queue.consume(consume)
        await over.wait()
    meter.report()


asyncio.run(main())
