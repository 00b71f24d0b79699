"""An ordered handler with eight partitions in one, three and one processes, under traffic. `make campaign-partitions`.

    python -m tests.faults.partitions [--events 50000]

A cycle: one process has all partitions; two more come; one of the three is killed with SIGKILL, another one stops. Each time the
partitions are spread within one of each other. In the end every event is applied once, each key's in order.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import BigInteger, Column, Identity, Integer, MetaData, Table, Text, func, insert, select
from sqlalchemy.exc import DBAPIError

from eventplat.clock import SystemClock
from eventplat.coordination.lease import standings
from eventplat.messages.message import Event, Key
from eventplat.service.client import Client
from eventplat.service.context import Context
from eventplat.service.service import Service
from eventplat.settings import load
from eventplat.storage.database import Database
from tests.servers import PostgresServer, RabbitServer

PARTITIONS = 8
KEYS = [f"sku-{number}" for number in range(64)]
ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0
LAG_MAX = 2_000          # events that are published and not applied: traffic, not a backlog

tables = MetaData()
applied = Table(
    "applied", tables,
    Column("place", BigInteger, Identity(), primary_key=True), Column("sku", Text, nullable=False), Column("n", Integer, nullable=False),
    Column("pid", Integer, nullable=False),
)  # fmt: skip


class Moved(Event, name="stock.moved"):
    sku: Key[str]
    n: int


mail = Service("mail", tables=tables)


@mail.on(Moved, ordered=True, partitions=PARTITIONS)
async def on_moved(event: Moved, ctx: Context) -> None:
    """Write down who applied it; the place grows in the order in which the transactions of a key go."""
    await ctx.db.execute(insert(applied).values(sku=event.sku, n=event.n, pid=os.getpid()))


@dataclass
class Fleet:
    """The processes of the service, its database, and what is published.

    Args:
        environment: Settings of every process.
    """

    folder: Path
    environment: Mapping[str, str]
    published: int = 0
    lines: list[str] = field(default_factory=list)      # what was seen, a line each

    def __post_init__(self) -> None:
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._numbers = itertools.count(1)
        url = self.environment["EVENTPLAT_DATABASE_URL"]
        self.database = Database(url, service="mail", clock=SystemClock(), pool_size=2)
        self._is_over = False

    async def cycle(self) -> None:
        """1 → 3 → 2 (one killed) → 1."""
        if not self._workers:
            self.start()
        await self.spread("one process")
        self.start()
        victim = self.start()
        await self.spread("two more")
        self._end(victim, signal.SIGKILL)
        await self.spread("one killed")
        self._end(next(reversed(self._workers)), signal.SIGTERM)
        await self.spread("one stopped")

    async def publish(self, events: int, *, pause_s: float) -> None:
        """Publish until `events` are, and until `finish`; one of each key in a transaction."""
        settings = load(
            data_dir=self.folder, profile="dev", broker_url=self.environment["EVENTPLAT_BROKER_URL"],
            database_url=self.environment["EVENTPLAT_DATABASE_URL"], prefix=self.environment["EVENTPLAT_PREFIX"],
        )  # fmt: skip
        async with Client("stock", settings=settings) as client:
            while self.published < events or not self._is_over:
                async with client.transaction() as transaction:
                    for sku in KEYS:
                        transaction.publish(Moved(sku=sku, n=self.published // len(KEYS)))
                self.published += len(KEYS)
                await asyncio.sleep(pause_s)
                await self.until(self._keeps_up, "keeping up")

    def finish(self) -> None:
        """Publish no more than was asked for."""
        self._is_over = True

    def start(self) -> int:
        """One more process; returns its number."""
        number = next(self._numbers)
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("EVENTPLAT_")},
            **self.environment, "EVENTPLAT_DATA_DIR": str(self.folder), "EVENTPLAT_LOG_LEVEL": "warning", "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        with self._log(number).open("wb") as log:
            self._workers[number] = subprocess.Popen(
                [sys.executable, "-c", "from eventplat.cli.main import main; main()", "run", "tests.faults.partitions"],
                cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        return number

    async def spread(self, when: str) -> None:
        """Wait until each partition has a holder, each process some, and no process two more than another; and until all work."""
        began = time.monotonic()
        await self.until(self._is_even, f"an even spread: {when}")
        since = await self._newest()
        pids = {worker.pid for worker in self._workers.values()}
        await self.until(lambda: self._worked_since(since, pids), f"work of every process: {when}")
        sizes = sorted((await self._shares()).values(), reverse=True)
        took_s = time.monotonic() - began
        self.lines.append(f"{when:<12} {len(pids)} processes hold {sizes} after {took_s:.1f} s, {self.published:,} published")

    async def wrong(self) -> list[str]:
        """What is not as it must be, once everything that was published is applied."""
        await self.until(self._is_done, "everything applied")
        found: defaultdict[str, list[int]] = defaultdict(list)
        async with self.database.transaction(read_only=True) as connection:
            for row in await connection.execute(select(applied.c.sku, applied.c.n).order_by(applied.c.place)):
                found[row.sku].append(row.n)
        wanted = list(range(self.published // len(KEYS)))
        return [f"{sku}: {_difference(found[sku], wanted)}" for sku in KEYS if found[sku] != wanted]

    async def until(self, holds: Callable[[], Awaitable[bool]], what: str) -> None:
        until = time.monotonic() + PATIENCE_S
        while not await holds():
            dead = [self.log(number) for number, worker in self._workers.items() if worker.poll() is not None]
            assert not dead, dead
            assert time.monotonic() < until, f"not within {PATIENCE_S:g} s: {what}; {await self._shares()}"
            await asyncio.sleep(0.1)

    async def close(self) -> None:
        for number in list(self._workers):
            self._end(number, signal.SIGKILL)
        await self.database.close()

    def log(self, number: int) -> str:
        return self._log(number).read_text(errors="replace")[-4_000:]

    def _end(self, number: int, how: signal.Signals) -> None:
        worker = self._workers.pop(number)
        worker.send_signal(how)
        code = worker.wait(60)
        assert code == (-how if how == signal.SIGKILL else 0), self.log(number)

    async def _shares(self) -> Counter[str]:
        async with self.database.transaction(read_only=True) as connection:
            seen = await standings(connection, "mail.on-moved/partition/")
        return Counter(standing.holder for standing in seen if standing.holder is not None)

    async def _is_even(self) -> bool:
        try:
            sizes = (await self._shares()).values()
        except DBAPIError:  # the first process makes the tables
            return False
        return len(sizes) == len(self._workers) and sum(sizes) == PARTITIONS and max(sizes) - min(sizes) <= 1

    async def _newest(self) -> int:
        async with self.database.transaction(read_only=True) as connection:
            return (await connection.execute(select(func.max(applied.c.place)))).scalar() or 0

    async def _worked_since(self, place: int, pids: set[int]) -> bool:
        async with self.database.transaction(read_only=True) as connection:
            found = await connection.execute(select(applied.c.pid).where(applied.c.place > place).distinct())
            return pids <= {row.pid for row in found}

    async def _count(self) -> int:
        async with self.database.transaction(read_only=True) as connection:
            return (await connection.execute(select(func.count()).select_from(applied))).scalar_one()

    async def _keeps_up(self) -> bool:
        return self.published - await self._count() < LAG_MAX

    async def _is_done(self) -> bool:
        return await self._count() >= self.published

    def _log(self, number: int) -> Path:
        return self.folder / f"mail-{number}.log"


def _difference(found: list[int], wanted: list[int]) -> str:
    twice = [n for n, count in Counter(found).items() if count > 1]
    missing = sorted(set(wanted) - set(found))
    return f"{len(found)} applied, missing {missing[:5]}, twice {twice[:5]}, {'out of order' if found != sorted(found) else 'in order'}"


async def played(fleet: Fleet, events: int, *, pause_s: float) -> list[str]:
    """Cycles for as long as there are events to publish, one at least; returns what is wrong."""
    publishing: asyncio.Task[None] | None = None
    try:
        fleet.start()
        await fleet.until(fleet._is_even, "the first process")  # its queues are bound from now on
        publishing = asyncio.create_task(fleet.publish(events, pause_s=pause_s))
        while True:
            await fleet.cycle()
            if fleet.published >= events:
                break
        fleet.finish()
        await publishing
        return await fleet.wrong()
    finally:
        if publishing is not None:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
        await fleet.close()


async def campaign(events: int) -> bool:
    """Play it on servers of its own; whether it held."""
    rabbitmq, postgres = RabbitServer(), PostgresServer()
    try:
        rabbitmq.start()
        postgres.start()
        with tempfile.TemporaryDirectory(prefix="eventplat-partitions-") as folder:
            urls = {"EVENTPLAT_BROKER_URL": rabbitmq.url, "EVENTPLAT_DATABASE_URL": postgres.create_database("mail")}
            fleet = Fleet(Path(folder), {"EVENTPLAT_PROFILE": "dev", "EVENTPLAT_PREFIX": "partitions", **urls})
            wrong = await played(fleet, events, pause_s=0.0)
    finally:
        for server in (rabbitmq, postgres):
            server.remove()
    print("\n".join([*fleet.lines, *wrong]))  # noqa: T201
    print(f"{fleet.published:,} events of {len(KEYS)} keys: {'FAIL' if wrong else 'each applied once, each key in order'}")  # noqa: T201
    return not wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=50_000)
    sys.exit(0 if asyncio.run(campaign(parser.parse_args().events)) else 1)


if __name__ == "__main__":
    main()
