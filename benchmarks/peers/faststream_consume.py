"""FastStream consuming: a typed handler, acked when it returns."""

from __future__ import annotations

import asyncio

from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue
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
broker = RabbitBroker(given.amqp, logger=None)


@broker.subscriber(
    RabbitQueue(given.queue, queue_type=QueueType.QUORUM, durable=True, declare=False), channel=Channel(prefetch_count=given.window)
)
async def consume(order: Order) -> None:
    if meter.tick():
        over.set()


async def main() -> None:
    async with broker:
        await broker.start()
        await over.wait()
    meter.report()


asyncio.run(main())
