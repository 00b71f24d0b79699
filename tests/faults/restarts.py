"""Restarts: the broker goes and comes back, again and again, and nobody else is restarted. `make campaign-restarts`.

    python -m tests.faults.restarts [--times 60] [--seed 1]

It is killed or stopped in turn. Each time every handler must have applied an event that was committed after the broker was
back, within 15 s of that moment. In the end nothing is lost or doubled, the processes are those that were started, and they
hold no more threads and open files than before.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from tests.faults.campaign import restart
from tests.faults.plant import Plant
from tests.servers import PostgresServer, RabbitServer

WITHIN_S = 15.0         # on a machine that does nothing else
RATE = 60.0             # events a second: each handler has some at any moment
SPARE = 8               # threads and files that may come and go


@dataclass
class Report:
    """How long each took, and what is wrong."""

    seconds: list[float] = field(default_factory=list)     # from a broker that answers to the last handler that applies
    wrong: list[str] = field(default_factory=list)

    def line(self) -> str:
        took = sorted(self.seconds)
        said = f"{len(took)} restarts, consuming again after {took[len(took) // 2]:.1f} s (median), {took[-1]:.1f} s (longest)"
        return "\n".join([said, *(f"WRONG: {each}" for each in self.wrong)])


async def campaign(
    folder: Path, rabbitmq: RabbitServer, postgres: PostgresServer, *, times: int, within_s: float = WITHIN_S,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Restart `rabbitmq` `times` times under a little load."""
    report = Report()
    async with Plant(folder, postgres, rabbitmq.url, RATE) as plant:
        started: dict[str, int] = plant.crew.pids()
        held: dict[str, int] = {}
        for number in range(times):
            how = "killed" if number % 2 else "stopped"
            await asyncio.to_thread(partial(restart, rabbitmq) if how == "killed" else rabbitmq.restart)
            report.seconds.append(await _consuming_again(plant))
            say(f"{number + 1:>3} {how:<7} {report.seconds[-1]:>6.1f} s")
            if number == 0:
                held = _held(started, postgres.port)
        report.wrong += [f"{took:.1f} s until all were consuming again" for took in report.seconds if took > within_s]
        report.wrong += [f"{name} has {now} threads and files, {held[name]} after the first restart"
                         for name, now in _held(started, postgres.port).items() if now > held[name] + SPARE]  # fmt: skip
        if plant.crew.deaths or plant.crew.pids() != started:
            report.wrong.append(f"processes were restarted: {plant.crew.deaths}")
        await plant.settle(say)
        report.wrong += await plant.tally.wrong()
    return report


async def _consuming_again(plant: Plant) -> float:
    """Seconds until each handler has applied an event of after now."""
    began, now_us = time.monotonic(), await plant.tally.now_us()
    while not await plant.tally.have_all_applied_after(now_us):
        if time.monotonic() - began > 4 * WITHIN_S:
            break
        await asyncio.sleep(0.1)
    return time.monotonic() - began


def _held(pids: dict[str, int], database_port: int) -> dict[str, int]:
    """Threads and open files of each, but for connections to the database: those of a pool open when they are first needed."""
    held = {}
    for name, pid in pids.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            pooled = sum(bool(each.raddr) and each.raddr.port == database_port for each in process.net_connections("tcp"))
            held[name] = process.num_threads() + process.num_fds() - pooled
    return held


async def run(times: int) -> Report:
    """The whole campaign, on servers of its own."""
    rabbitmq, postgres = RabbitServer(), PostgresServer(fsync="off")
    rabbitmq.start()
    postgres.start()
    try:
        with tempfile.TemporaryDirectory(prefix="eventplat-restarts-") as folder:
            return await campaign(Path(folder), rabbitmq, postgres, times=times, say=_print)
    finally:
        for server in (rabbitmq, postgres):
            server.stop()
            server.remove()


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=60)
    report = asyncio.run(run(parser.parse_args().times))
    _print(report.line())
    sys.exit(1 if report.wrong else 0)


if __name__ == "__main__":
    main()
