"""eventplat publishing: envelope, checks, confirms; in batches, or a future for each message."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice

from benchmarks.ours.shop import opened, placed, run, sender
from benchmarks.program import Job, Meter, job
from eventplat.broker.transport import Confirmed, Transport
from eventplat.lifecycle import spare_the_collector

BATCH = 256


async def main(given: Job) -> None:
    transport, meter = await opened(given.amqp), Meter(given)
    spare_the_collector()  # as a process of `eventplat run` does
    numbers = iter(range(given.total))
    size = BATCH if given.variant == "batches" else 1
    async with asyncio.TaskGroup() as group:
        for _ in range(max(given.window // size, 1)):
            group.create_task(_publish(transport, numbers, size, meter))
    meter.report()
    await transport.close()


async def _publish(transport: Transport, numbers: Iterator[int], size: int, meter: Meter) -> None:
    envelopes = sender()
    while batch := list(islice(numbers, size)):
        outcomes = await transport.publish([envelopes.letter(placed(number), cause=None).outgoing() for number in batch], timeout_s=60)
        if not all(isinstance(outcome, Confirmed) for outcome in outcomes):
            raise RuntimeError(f"not confirmed: {outcomes[0]}")
        meter.tick(len(batch))


if __name__ == "__main__":
    run(main(job()))
