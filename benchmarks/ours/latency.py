"""eventplat from commit to handler: a client's transaction returns, a handler elsewhere begins; `options.rate` a second."""

from __future__ import annotations

import asyncio
import json
import time

from benchmarks.ours.shop import SERVICE, Placed, placed, run, settings
from benchmarks.program import Job, job, spread
from eventplat import Client, Context, Service
from eventplat.lifecycle import spare_the_collector
from eventplat.process import Process


async def main(given: Job) -> None:
    committed, handled, over = dict[str, float](), dict[str, float](), asyncio.Event()
    service = Service(SERVICE, database=False)

    @service.on(Placed, name="consume")
    async def consume(event: Placed, ctx: Context) -> None:
        handled[event.order_id] = time.perf_counter()
        if len(handled) == given.total:
            over.set()

    own = settings(given)
    process = Process([service], gateway=False, settings=own)
    await process.start()
    spare_the_collector()
    async with Client(SERVICE, settings=own) as client:
        begun = time.perf_counter()
        for number in range(given.total):
            await asyncio.sleep(max(begun + number / given.options["rate"] - time.perf_counter(), 0))
            event = placed(number)
            async with client.transaction() as tx:
                tx.publish(event)
            committed[event.order_id] = time.perf_counter()
        await over.wait()
    await process.stop()
    print(json.dumps(spread([handled[each] - at for each, at in committed.items()][given.warm :])), flush=True)


if __name__ == "__main__":
    run(main(job()))
