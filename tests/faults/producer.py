"""Producer: a process that commits events in the name of `meter` until it is told to stop, or killed.

    python -m tests.faults.producer --name p1 --rate 500

Each of its writers has sources of its own, so that `n` grows with every commit of one source. With a rate of 0 it writes
nothing, and only sends what dead ones have left.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections import Counter
from random import Random

from eventplat import Client, Event, EventplatError
from eventplat.lifecycle import until_signalled
from eventplat.observability.logs import configure
from eventplat.settings import load
from tests.faults.readings import Alarm, Reading, Tick

WRITERS = 4
SOURCES = 5             # of each writer
EVENTS_MAX = 5          # of a transaction
KEYED, ALARMS = 0.5, 0.2   # of all events, and of those


class Writer:
    """Commits 1 to 5 events at a time, as often as `rate` asks for, one transaction after the other."""

    def __init__(self, client: Client, name: str, chance: Random, rate: float) -> None:
        self._client, self._chance, self._pause_s = client, chance, (1 + EVENTS_MAX) / 2 / rate
        self._sources = [f"{name}-{number}" for number in range(SOURCES)]
        self._n: Counter[str] = Counter()

    async def run(self) -> None:
        due = time.monotonic()
        while True:
            try:
                async with self._client.transaction() as tx:
                    for _ in range(self._chance.randint(1, EVENTS_MAX)):
                        tx.publish(self._event())
            except EventplatError as error:  # the database is away, or nobody knows: what was committed leaves all the same
                print(f"{self._sources[0]}: {error}", file=sys.stderr, flush=True)  # noqa: T201
                await asyncio.sleep(0.1)
            due = max(due + self._pause_s, time.monotonic() - 1)
            await asyncio.sleep(max(due - time.monotonic(), 0))

    def _event(self) -> Event:
        source = self._chance.choice(self._sources)
        self._n[source] += 1
        kind = Tick if self._chance.random() >= KEYED else Alarm if self._chance.random() < ALARMS else Reading
        return kind(source=source, n=self._n[source])


async def produce(name: str, rate: float) -> None:
    settings = load()
    configure(settings)
    async with Client("meter", settings=settings) as client:
        life = f"{name}-{os.getpid()}-{time.time_ns()}"
        names = [f"{life}-{number}" for number in range(WRITERS)] if rate else []
        writers = [Writer(client, own, Random(own), rate / WRITERS) for own in names]
        tasks = [asyncio.create_task(writer.run()) for writer in writers]
        await until_signalled()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--rate", type=float, required=True, help="events a second")
    given = parser.parse_args()
    asyncio.run(produce(given.name, given.rate))


if __name__ == "__main__":
    main()
