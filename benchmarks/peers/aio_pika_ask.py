"""aio-pika asking: its `RPC` pattern with JSON."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import aio_pika
from aio_pika.patterns import JsonRPC

from benchmarks.program import Meter, job, order, spread

given = job()
meter = Meter(given)
took: list[float] = []


async def ask(rpc: Any, numbers: Iterator[int]) -> None:
    for number in numbers:
        began = time.perf_counter()
        await rpc.call(given.queue, kwargs=order(number))
        took.append(time.perf_counter() - began)
        meter.tick()


async def main() -> None:
    async with await aio_pika.connect_robust(given.amqp) as connection:
        channel = await connection.channel()
        rpc = await JsonRPC.create(channel)
        numbers = iter(range(given.total))
        await asyncio.gather(*(ask(rpc, numbers) for _ in range(given.window)))
    meter.report(**spread(took[given.warm :]))


asyncio.run(main())
