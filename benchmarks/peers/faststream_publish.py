"""FastStream publishing: persistent, mandatory and confirmed, a task per message in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from faststream.rabbit import RabbitBroker
from pydantic import BaseModel

from benchmarks.program import Meter, job, order


class Order(BaseModel):
    order_id: str
    sku: str
    quantity: int
    note: str


given = job()
meter = Meter(given)


async def publish(broker: RabbitBroker, numbers: Iterator[int]) -> None:
    for number in numbers:
        await broker.publish(Order(**order(number)), given.queue, mandatory=True, persist=True)
        meter.tick()


async def main() -> None:
    async with RabbitBroker(given.amqp, logger=None) as broker:
        numbers = iter(range(given.total))
        await asyncio.gather(*(publish(broker, numbers) for _ in range(given.window)))
    meter.report()


asyncio.run(main())
