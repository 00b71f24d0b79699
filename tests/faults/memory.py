"""Memory: publisher and consumer over ten minutes, with the broker down for five of them. `make campaign-memory`.

    python -m tests.faults.memory [--minutes 10] [--rate 600]

A publisher without a broker keeps its rows in the database and a bounded number of them in memory. So its memory may rise for
the first minute of the outage and not after it, and when all has left it is back near where it was before. Samples every
five seconds; the trend is the slope of a straight line through them (least squares).
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.faults.plant import Plant
from tests.servers import PostgresServer, RabbitServer

EVERY_S = 5.0
FILLS_S = 60.0          # until a publisher holds as many messages as it will
TREND_MB_MAX = 1.0      # a minute
GROWTH_MAX = 1.25       # of the median before

Sample = tuple[float, float]    # seconds since the start, megabytes


@dataclass
class Report:
    """Megabytes of each process, and what is wrong."""

    samples: dict[str, list[Sample]]
    down: tuple[float, float]
    backlog: int = 0
    wrong: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        start, end = self.down
        return [
            f"the broker was down from {start:.0f} to {end:.0f} s; {self.backlog:,} rows waited for it",
            *(_row(name, samples, self.down) for name, samples in self.samples.items()),
            *(f"WRONG: {each}" for each in self.wrong),
        ]


def judge(samples: Mapping[str, Sequence[Sample]], down: tuple[float, float]) -> list[str]:
    """What is not flat."""
    wrong = []
    for name, of_one in samples.items():
        slope = trend([sample for sample in of_one if down[0] + FILLS_S <= sample[0] <= down[1]])
        before, after = _median(of_one, 0, down[0]), _median(of_one[-12:], 0, float("inf"))
        if slope > TREND_MB_MAX:
            wrong.append(f"{name} grew by {slope:.1f} MB a minute without a broker")
        if after > GROWTH_MAX * before:
            wrong.append(f"{name} had {before:.0f} MB before and {after:.0f} MB when all had left")
    return wrong


def trend(samples: Sequence[Sample]) -> float:
    """Megabytes a minute."""
    return statistics.linear_regression(*zip(*samples, strict=True)).slope * 60 if len(samples) > 1 else 0.0


def _median(samples: Sequence[Sample], start: float, end: float) -> float:
    return statistics.median(megabytes for at, megabytes in samples if start <= at <= end)


def _row(name: str, samples: Sequence[Sample], down: tuple[float, float]) -> str:
    slope = trend([sample for sample in samples if down[0] + FILLS_S <= sample[0] <= down[1]])
    return (f"{name:<12} {_median(samples, 0, down[0]):>5.0f} MB before, {_median(samples, *down):>5.0f} MB without a broker "
            f"({slope:+.2f} MB a minute), {samples[-1][1]:>5.0f} MB after")  # fmt: skip


async def campaign(
    folder: Path, rabbitmq: RabbitServer, postgres: PostgresServer, *, minutes: float, rate: float,
    say: Callable[[str], None] = lambda _: None,
) -> Report:  # fmt: skip
    """Take the broker away for half of `minutes`, in the middle."""
    began = time.monotonic()
    async with Plant(folder, postgres, rabbitmq.url, rate) as plant:
        samples: dict[str, list[Sample]] = {name: [] for name in plant.crew.pids()}
        sampling = asyncio.create_task(_sample(plant, samples, began, say))
        await asyncio.sleep(minutes * 15)
        await asyncio.to_thread(rabbitmq.kill)
        start = time.monotonic() - began
        await asyncio.sleep(minutes * 30)
        report = Report(samples, (start, time.monotonic() - began), backlog=(await plant.tally.left())["to send"])
        await asyncio.to_thread(rabbitmq.start)
        await asyncio.sleep(minutes * 15)
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)
        report.wrong += [*judge(samples, report.down), *plant.unplanned()]
        await plant.settle(say)
        report.wrong += await plant.tally.wrong()
    return report


async def _sample(plant: Plant, samples: dict[str, list[Sample]], began: float, say: Callable[[str], None]) -> None:
    while True:
        at = time.monotonic() - began
        for name, pid in plant.crew.pids().items():
            samples[name].append((at, psutil.Process(pid).memory_info().rss / 1e6))
        say(f"{at:>5.0f} s  " + "  ".join(f"{name} {of_one[-1][1]:.0f} MB" for name, of_one in samples.items()))
        await asyncio.sleep(EVERY_S)


async def run(minutes: float, rate: float) -> Report:
    """The whole campaign, on servers of its own."""
    rabbitmq, postgres = RabbitServer(), PostgresServer(fsync="off")
    try:
        rabbitmq.start()
        postgres.start()
        with tempfile.TemporaryDirectory(prefix="eventplat-memory-") as folder:
            return await campaign(Path(folder), rabbitmq, postgres, minutes=minutes, rate=rate, say=_print)
    finally:
        rabbitmq.remove()
        postgres.remove()


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=600.0, help="events a second")
    given = parser.parse_args()
    report = asyncio.run(run(given.minutes, given.rate))
    _print("\n".join(report.lines()))
    sys.exit(1 if report.wrong else 0)


if __name__ == "__main__":
    main()
