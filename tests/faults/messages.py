"""Messages under faults: many events through outbox, broker and inbox while everything on their way fails. `make campaign-messages`.

    python -m tests.faults.messages [--events 1000000] [--rate 1400] [--seed 1]

Two producers and two instances of a service with three handlers, each a process, on RabbitMQ and PostgreSQL behind proxies.
Processes are killed, the broker is killed or restarted, connections to broker and database are cut at random bytes, confirms are
swallowed, the link is slow or silent, and copies of what was published are published again. What came of it is counted in
PostgreSQL and on the wire: nothing lost, nothing twice, order kept, and every fault has happened. Ends with 1 where not.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Protocol

from tests.faults.copies import Copier
from tests.faults.plant import INSTANCES, PRODUCERS, Plant
from tests.faults.proxy import Proxy, Wire
from tests.servers import PostgresServer, RabbitServer

CUT_AFTER_BYTES = 20_000_000       # of a connection, on the average
COPIES = 0.015                     # of what was published
AGAIN_MIN = 0.01                   # of all deliveries must really be duplicates
BACK_S = 60.0                      # after a restart
BACKLOG_MAX = 60_000               # events on their way; then the producers wait for the consumers

Strike = Callable[[], Awaitable[None]]


class Broker(Protocol):
    """A RabbitMQ that may be killed and started again, whoever runs it."""

    port: int

    @property
    def url(self) -> str: ...
    def url_at(self, port: int) -> str: ...
    def kill(self) -> None: ...
    def start(self) -> None: ...
    def restart(self) -> None: ...


@dataclass
class Report:
    """What happened."""

    committed: int = 0
    applied: dict[str, int] = field(default_factory=dict)
    deliveries: int = 0
    again: int = 0
    copies: int = 0
    struck: Counter[str] = field(default_factory=Counter)
    cuts: int = 0
    swallowed: int = 0
    kills: int = 0
    gave_up: int = 0                  # ended by themselves: one whose link is cut while it starts may
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        share = self.again / max(self.deliveries, 1)
        return [
            f"{self.committed:,} events committed, applied: {', '.join(f'{name} {count:,}' for name, count in self.applied.items())}",
            f"{self.deliveries:,} deliveries, {self.again:,} of them again ({share:.1%}); {self.copies:,} copies were published",
            f"faults: {', '.join(f'{count} {name}' for name, count in sorted(self.struck.items()))}",
            f"{self.kills} processes died by SIGKILL, {self.gave_up} gave up starting",
            f"{self.cuts} connections cut, {self.swallowed:,} confirms swallowed",
            f"{self.seconds:,.0f} s",
            *(f"WRONG: {each}" for each in self.wrong),
        ]


@dataclass
class Stage:
    """The plant, its broker, and what stands between them."""

    plant: Plant
    rabbitmq: Broker
    broker: Proxy
    database: Proxy
    wire: Wire
    chance: Random

    def strikes(self) -> dict[str, Strike]:
        """Every fault by its name."""
        return {
            "confirms swallowed": self._swallow,
            "producer killed": self._kill(PRODUCERS),
            "consumer killed": self._kill(INSTANCES),
            "broker link cut": self._cut(self.broker),
            "database link cut": self._cut(self.database),
            "broker restarted": self._restart,
            "broker killed": self._kill_broker,
            "broker link slow": self._slow,
            "broker link silent": self._silence,
        }

    async def _swallow(self) -> None:
        """Until some are swallowed: publishers wait for them in vain."""
        before, self.wire.swallows = self.wire.swallowed, True
        while self.wire.swallowed < before + 3:
            await asyncio.sleep(0.02)
        self.wire.swallows = False

    def _kill(self, names: Sequence[str]) -> Strike:
        async def kill() -> None:
            self.plant.crew.kill(self.chance.choice(names))

        return kill

    def _cut(self, proxy: Proxy) -> Strike:
        async def cut() -> None:
            while not proxy.cut():
                await asyncio.sleep(0.1)

        return cut

    async def _restart(self) -> None:
        await asyncio.to_thread(self.rabbitmq.restart)
        await self._until_heard()

    async def _kill_broker(self) -> None:
        await asyncio.to_thread(self.rabbitmq.kill)
        await asyncio.to_thread(self.rabbitmq.start)
        await self._until_heard()

    async def _until_heard(self) -> None:
        """The next fault has to hit something that works again."""
        before, until = self.wire.deliveries.total(), time.monotonic() + BACK_S
        while self.wire.deliveries.total() == before and time.monotonic() < until:
            await asyncio.sleep(0.05)

    async def _slow(self) -> None:
        self.broker.delay_s = 0.05
        await asyncio.sleep(1.5)
        self.broker.delay_s = 0.0

    async def _silence(self) -> None:
        self.broker.is_silent = True
        await asyncio.sleep(2.0)
        self.broker.is_silent = False


async def campaign(
    folder: Path, rabbitmq: Broker, postgres: PostgresServer, *, events: int, rate: float, pause_s: float, rounds: Mapping[str, int],
    seed: int = 1, say: Callable[[str], None] = lambda _: None,
) -> Report:  # fmt: skip
    """Let `events` through while faults strike, and audit.

    Args:
        rate: Events a second of all producers, where nothing holds them up.
        pause_s: Seconds between two faults, on the average.
        rounds: How often each fault comes in one round; the order is drawn. There is at least one whole round.
    """
    began, chance, wire, report = time.monotonic(), Random(seed), Wire(), Report()
    async with (
        Proxy(rabbitmq.port, chance, wire=wire, cut_after=CUT_AFTER_BYTES) as broker,
        Proxy(postgres.port, chance, cut_after=CUT_AFTER_BYTES) as database,
        Plant(folder, postgres, rabbitmq.url_at(broker.port), rate, database.port) as plant,
    ):
        wire.queues = plant.queues
        copier = Copier(rabbitmq.url, f"{plant.prefix}.events", Random(seed))
        copier.start()
        try:
            await _storm(Stage(plant, rabbitmq, broker, database, wire, chance), copier, report, events, pause_s, rounds, say)
        finally:
            await asyncio.to_thread(copier.stop)
        report.kills = sum(death.code == -9 for death in plant.crew.deaths)
        report.gave_up = sum(death.code != -9 for death in plant.crew.deaths)
        broker.heal()
        database.heal()
        await plant.settle(say)
    report.cuts, report.swallowed, report.copies = broker.cuts + database.cuts, wire.swallowed, copier.count
    report.deliveries, report.again = wire.deliveries.total(), wire.again.total()
    report.committed, report.applied = await plant.tally.committed(), await plant.tally.applied()
    report.wrong += [*await plant.tally.wrong(), *_missing(report, rounds, events)]
    report.seconds = time.monotonic() - began
    return report


async def _storm(
    stage: Stage, copier: Copier, report: Report, events: int, pause_s: float, rounds: Mapping[str, int], say: Callable[[str], None]
) -> None:
    """Strike until enough is committed and a whole round is over."""
    strikes, began = stage.strikes(), time.monotonic()
    for name in _deal(rounds, stage.chance):
        await asyncio.sleep(stage.chance.uniform(0.5, 1.5) * pause_s)
        await strikes[name]()
        report.struck[name] += 1
        committed, applied = await stage.plant.tally.committed(), sum((await stage.plant.tally.applied()).values())
        copier.wanted = int(committed * COPIES)
        again = stage.wire.again.total()
        say(f"{time.monotonic() - began:>6,.0f} s  {name:<20} {committed:>9,} committed {applied:>9,} applied {again:>7,} again")
        if committed >= events and report.struck.total() >= sum(rounds.values()):
            break
        if committed - applied > BACKLOG_MAX:
            await _let_catch_up(stage)


def _deal(rounds: Mapping[str, int], chance: Random) -> Iterator[str]:
    """Round after round, each in an order of its own."""
    while True:
        deck = [name for name, times in rounds.items() for _ in range(times)]
        chance.shuffle(deck)
        yield from deck


async def _let_catch_up(stage: Stage) -> None:
    """The producers stop for a while, as a deployment would, and come back."""
    await stage.plant.crew.stop(*PRODUCERS)
    while await stage.plant.tally.committed() - sum((await stage.plant.tally.applied()).values()) > BACKLOG_MAX // 4:
        await asyncio.sleep(1)
    for name in PRODUCERS:
        await stage.plant.crew.start(name)


def _missing(report: Report, rounds: Mapping[str, int], events: int) -> list[str]:
    """What was promised and did not happen."""
    wrong = [f"no {name}" for name in rounds if not report.struck[name]]
    killed = report.struck["producer killed"] + report.struck["consumer killed"]
    if report.kills < killed:
        wrong.append(f"{killed} processes were to be killed, {report.kills} died of it")
    if report.again < AGAIN_MIN * report.deliveries:
        wrong.append(f"only {report.again} of {report.deliveries} deliveries were duplicates")
    if report.committed < events:
        wrong.append(f"only {report.committed} of {events} events were committed")
    if not report.swallowed or not report.cuts:
        wrong.append(f"{report.swallowed} confirms were swallowed, {report.cuts} connections cut")
    return wrong


ROUND = {   # of the campaign: a restart takes ten seconds, in which nothing goes on
    "confirms swallowed": 2, "producer killed": 3, "consumer killed": 3, "broker link cut": 6, "database link cut": 4,
    "broker restarted": 1, "broker killed": 1, "broker link slow": 2, "broker link silent": 1,
}  # fmt: skip


async def run(events: int, rate: float, seed: int) -> Report:
    """The whole campaign, on servers of its own."""
    rabbitmq, postgres = RabbitServer(), PostgresServer(fsync="off")
    rabbitmq.start()
    postgres.start()
    try:
        with tempfile.TemporaryDirectory(prefix="eventplat-messages-") as folder:
            return await campaign(
                Path(folder), rabbitmq, postgres, events=events, rate=rate, pause_s=5.0, rounds=ROUND, seed=seed, say=_print
            )
    finally:
        for server in (rabbitmq, postgres):
            server.stop()
            server.remove()


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=1_400.0, help="events a second at most")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    report = asyncio.run(run(given.events, given.rate, given.seed))
    print("\n".join(report.lines()))  # noqa: T201
    sys.exit(1 if report.wrong else 0)


if __name__ == "__main__":
    main()
