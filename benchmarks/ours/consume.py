"""eventplat consuming: a typed handler in a service without a database, at least once."""

from __future__ import annotations

import asyncio

from benchmarks.ours.shop import SERVICE, Placed, run, settings
from benchmarks.program import Job, Meter, job
from eventplat import Context, Service
from eventplat.lifecycle import spare_the_collector
from eventplat.process import Process


def service(given: Job, meter: Meter, over: asyncio.Event) -> Service[None]:
    found = Service(SERVICE, database=False)

    @found.on(Placed, name="consume")
    async def consume(event: Placed, ctx: Context) -> None:
        if meter.tick():
            over.set()

    return found


async def main(given: Job) -> None:
    meter, over = Meter(given), asyncio.Event()
    process = Process([service(given, meter, over)], gateway=False, settings=settings(given, prefetch=given.window))
    await process.start()
    spare_the_collector()
    await over.wait()
    await process.stop()
    meter.report()


if __name__ == "__main__":
    run(main(job()))
