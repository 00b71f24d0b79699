"""Cluster: three RabbitMQ nodes on this machine, each killed and brought back in turn under load. `make campaign-cluster`.

    python -m tests.faults.cluster [--rounds 3] [--away 10] [--rate 400]

The processes know all three nodes. A node is killed when no queue would lose its majority by it, which is what whoever
upgrades a cluster waits for too. In the end: nothing lost, nothing twice, order kept, and nodes that led queues were among the killed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster import RabbitCluster
from tests.faults.plant import Plant
from tests.servers import PostgresServer

MAJORITY_S = 120.0


@dataclass
class Report:
    """What happened."""

    kills: int = 0
    led: int = 0                 # queues whose leader was killed
    committed: int = 0
    outage_s: float = 0.0        # the longest time without any application
    wrong: list[str] = field(default_factory=list)

    def line(self) -> str:
        said = (f"{self.committed:,} events, {self.kills} nodes killed, which led {self.led} queues; "
                f"the longest time without an application: {self.outage_s:.1f} s")  # fmt: skip
        return "\n".join([said, *(f"WRONG: {each}" for each in self.wrong)])


async def campaign(
    folder: Path, cluster: RabbitCluster, postgres: PostgresServer, *, rounds: int, away_s: float, rate: float,
    say: Callable[[str], None] = lambda _: None,
) -> Report:  # fmt: skip
    """Kill each node `rounds` times, for `away_s` seconds each time."""
    report = Report()
    async with Plant(folder, postgres, cluster.url, rate) as plant:
        gaps = asyncio.create_task(_watch(plant, report))
        for number in range(rounds * len(cluster.nodes)):
            node = cluster.nodes[number % len(cluster.nodes)]
            await asyncio.to_thread(cluster.until_dispensable, node, MAJORITY_S)
            leads = len(await asyncio.to_thread(cluster.led_by, node, plant.queues))
            await asyncio.to_thread(node.kill)
            await asyncio.sleep(away_s)
            await asyncio.to_thread(node.start)
            report.kills, report.led = report.kills + 1, report.led + leads
            committed, applied = await plant.tally.committed(), sum((await plant.tally.applied()).values())
            say(f"kill {number + 1}, of node {number % len(cluster.nodes) + 1}: it led {leads} queues; "
                f"{committed:,} committed, {applied:,} applied")  # fmt: skip
        gaps.cancel()
        await asyncio.gather(gaps, return_exceptions=True)
        report.wrong += plant.unplanned()
        await plant.settle(say)
        report.committed = await plant.tally.committed()
        report.wrong += await plant.tally.wrong()
    if not report.led:
        report.wrong.append("no killed node led a queue")
    return report


async def _watch(plant: Plant, report: Report) -> None:
    moved, before = time.monotonic(), 0
    while True:
        applied = sum((await plant.tally.applied()).values())
        if applied != before:
            moved, before = time.monotonic(), applied
        report.outage_s = max(report.outage_s, time.monotonic() - moved)
        await asyncio.sleep(0.2)


async def run(rounds: int, away_s: float, rate: float) -> Report:
    """The whole campaign, on servers of its own."""
    cluster, postgres = RabbitCluster(3), PostgresServer(fsync="off")
    try:
        cluster.start()
        postgres.start()
        with tempfile.TemporaryDirectory(prefix="eventplat-cluster-") as folder:
            return await campaign(Path(folder), cluster, postgres, rounds=rounds, away_s=away_s, rate=rate, say=_print)
    finally:
        cluster.remove()
        postgres.remove()


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--away", type=float, default=10.0, help="seconds that a node stays away")
    parser.add_argument("--rate", type=float, default=400.0, help="events a second")
    given = parser.parse_args()
    report = asyncio.run(run(given.rounds, given.away, given.rate))
    _print(report.line())
    sys.exit(1 if report.wrong else 0)


if __name__ == "__main__":
    main()
