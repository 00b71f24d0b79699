"""eventplat asking: queries of a `Client`, answered by `ours.answer`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from benchmarks.ours.shop import Price, run, settings
from benchmarks.program import Job, Meter, job, order, spread
from eventplat import Client


async def main(given: Job) -> None:
    meter, numbers, took = Meter(given), iter(range(given.total)), list[float]()
    given.postgres = ""  # a client's own database is not asked here
    async with Client("asking", settings=settings(given)) as client, asyncio.TaskGroup() as group:
        for _ in range(given.window):
            group.create_task(_ask(client, numbers, meter, took))
    meter.report(**spread(took[given.warm :]))


async def _ask(client: Client, numbers: Iterator[int], meter: Meter, took: list[float]) -> None:
    for number in numbers:
        began, question = time.perf_counter(), Price(**order(number))
        answer = await client.ask(question, timeout=30)
        if answer.note != question.note:
            raise RuntimeError(f"{answer} is not the answer to {question}")
        took.append(time.perf_counter() - began)
        meter.tick()


if __name__ == "__main__":
    run(main(job()))
