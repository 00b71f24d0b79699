"""FastStream asking: `broker.request`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from faststream.rabbit import RabbitBroker

from benchmarks.program import Meter, job, order, spread

given = job()
meter = Meter(given)
took: list[float] = []


async def ask(broker: RabbitBroker, numbers: Iterator[int]) -> None:
    for number in numbers:
        began = time.perf_counter()
        answer = await broker.request(order(number), given.queue, timeout=30)
        await answer.decode()
        took.append(time.perf_counter() - began)
        meter.tick()


async def main() -> None:
    async with RabbitBroker(given.amqp, logger=None) as broker:
        numbers = iter(range(given.total))
        await asyncio.gather(*(ask(broker, numbers) for _ in range(given.window)))
    meter.report(**spread(took[given.warm :]))


asyncio.run(main())
