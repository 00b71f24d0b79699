"""FastStream answering: a subscriber's return value is the reply."""

from __future__ import annotations

import asyncio

from faststream.rabbit import Channel, RabbitBroker
from pydantic import BaseModel

from benchmarks.program import job


class Price(BaseModel):
    order_id: str
    sku: str
    quantity: int
    note: str


class Quote(BaseModel):
    sku: str
    note: str


given = job()
broker = RabbitBroker(given.amqp, logger=None)


@broker.subscriber(given.queue, channel=Channel(prefetch_count=64))
async def price(question: Price) -> Quote:
    return Quote(sku=question.sku, note=question.note)


async def main() -> None:
    async with broker:
        await broker.start()
        print("ready", flush=True)
        await asyncio.Future()


asyncio.run(main())
