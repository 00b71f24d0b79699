"""aio-pika answering: its `RPC` pattern with JSON."""

from __future__ import annotations

import asyncio
from typing import Any

import aio_pika
from aio_pika.patterns import JsonRPC
from pydantic import BaseModel

from benchmarks.program import job


class Price(BaseModel):
    order_id: str
    sku: str
    quantity: int
    note: str


given = job()


async def price(**question: Any) -> dict[str, str]:
    asked = Price(**question)
    return {"sku": asked.sku, "note": asked.note}


async def main() -> None:
    connection = await aio_pika.connect_robust(given.amqp)
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=64)
    rpc = await JsonRPC.create(channel)
    await rpc.register(given.queue, price, auto_delete=True)
    print("ready", flush=True)
    await asyncio.Future()


asyncio.run(main())
