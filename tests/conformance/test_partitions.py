"""Partitions shared by instances, on both databases: even, in order, nothing lost and nothing twice."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, Text, func, insert, select, update

from eventplat.coordination.lease import announce, lease
from eventplat.hashing import bucket_of, lane_of
from eventplat.messages.message import Event, Key
from eventplat.service import partitions, pausing
from eventplat.service.context import Context
from eventplat.service.endpoint import partitions_there, topology
from eventplat.service.handler_control import HandlerControl
from eventplat.service.partitions import Partitions
from eventplat.service.runner import Runner
from eventplat.service.service import Service
from eventplat.storage.tables import now_us
from tests.conformance import stage as stages
from tests.conformance.stage import Stage, until

LANES = {lane_of(bucket_of(f"sku-{n}")) % 8: f"sku-{n}" for n in range(64)}
KEYS = [LANES[rest] for rest in range(8)]       # one for each of eight partitions
HANDLER = "mail.on-moved"
TERM_S = 60

T = TypeVar("T")


class Moved(Event, name="stock.moved"):
    sku: Key[str]
    n: int


tables = MetaData()
applied = Table(
    "applied", tables,
    Column("place", BigInteger().with_variant(Integer, "sqlite"), primary_key=True), Column("sku", Text, nullable=False),
    Column("n", Integer, nullable=False),
)  # fmt: skip


def mail(count: int) -> Service[None]:
    """A release whose ordered handler has `count` partitions, and writes what it applies."""
    service = Service("mail", tables=tables)

    @service.on(Moved, ordered=True, partitions=count)
    async def on_moved(event: Moved, ctx: Context) -> None:
        await ctx.db.execute(insert(applied).values(sku=event.sku, n=event.n))

    return service


class Traffic:
    """Events of all keys, in rounds of one a key, each following the one before it."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._last_us = stage, 0
        self.rounds = 0

    async def round(self) -> None:
        events = [Moved(sku=sku, n=self.rounds) for sku in KEYS]
        seq, prev = max(self._last_us + 1, self._stage.clock.time_us()), self._last_us or None
        self._last_us, self.rounds = seq, self.rounds + 1
        await self._stage.send(*((event, self._stage.envelope(event, seq=seq, prev=prev)) for event in events))

    async def during(self, doing: Awaitable[T]) -> T:
        """Send rounds until `doing` is done."""
        task = asyncio.ensure_future(doing)
        while not task.done():
            await self.round()
            await asyncio.wait([task], timeout=0.2)
        return await task


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'mail.db'}"
    from tests.servers import fresh_database  # noqa: PLC0415 - starts a server, only when a test needs it

    return fresh_database()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let instances look five times a second, in a term that no busy machine outlasts."""
    monkeypatch.setattr(partitions, "TURNS_PER_TERM", TERM_S * 5)
    monkeypatch.setattr(stages, "WITHIN_S", 60.0)


def played(folder: Path, url: str, test: Callable[[Stage], Awaitable[None]], drain_s: float = 10.0) -> None:
    async def whole() -> None:
        async with Stage(folder, url, process_term_s=TERM_S, prefetch=8, drain_s=drain_s) as stage:
            await test(stage)

    asyncio.run(whole())


def parts(runner: Runner) -> Partitions:
    (found,) = [consumer for consumer in runner._consumers if isinstance(consumer, Partitions)]
    return found


async def spread(runners: list[Runner], count: int) -> None:
    """Wait until each partition is consumed by one of `runners`, and none has two more than another."""

    def is_even() -> bool:
        mine = [parts(runner).mine for runner in runners]
        sizes = [len(each) for each in mine]
        return sorted(itertools.chain(*mine)) == list(range(count)) and max(sizes) - min(sizes) <= 1

    await until(is_even, f"{count} partitions over {len(runners)} instances")


async def in_order(stage: Stage, runner: Runner, traffic: Traffic) -> None:
    """Wait until all that was sent is applied: each key's from 0 on, each once, in order."""
    async def is_done() -> bool:
        ((count,),) = await stage.rows(runner, select(func.count()).select_from(applied))
        return bool(count >= traffic.rounds * len(KEYS))

    await until(is_done, "everything applied")
    by_key: defaultdict[str, list[int]] = defaultdict(list)
    for row in await stage.rows(runner, select(applied).order_by(applied.c.place)):
        by_key[row.sku].append(row.n)
    assert by_key == {sku: list(range(traffic.rounds)) for sku in KEYS}


def test_instances_come_and_go_and_have_equal_shares_of_eight_partitions(tmp_path: Path, url: str) -> None:
    async def test(stage: Stage) -> None:
        traffic = Traffic(stage)
        first = await stage.run(mail(8))
        await traffic.during(spread([first], 8))
        others = [await stage.run(mail(8)), await stage.run(mail(8))]
        await traffic.during(spread([first, *others], 8))
        await until(lambda: not any(runner.missing() for runner in (first, *others)), "ready")
        await traffic.during(asyncio.gather(*(stage.stop(runner) for runner in others)))
        await traffic.during(spread([first], 8))
        await in_order(stage, first, traffic)

    played(tmp_path, url, test)


def test_a_paused_handler_leaves_its_partitions_in_every_instance_until_it_is_resumed(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pausing, "EVERY_S", 0.05)

    async def test(stage: Stage) -> None:
        traffic = Traffic(stage)
        runners = [await stage.run(mail(8)), await stage.run(mail(8))]
        await traffic.during(spread(runners, 8))
        control = HandlerControl(runners[0].out.database, by="ana")
        assert await traffic.during(control.pause(HANDLER))
        await traffic.during(until(lambda: not any(parts(runner)._seats for runner in runners), "all partitions left"))

        before = await stage.rows(runners[0], select(func.count()).select_from(applied))
        await traffic.round()
        runners.append(await stage.run(mail(8)))
        await until(lambda: runners[2].paused == {HANDLER}, "the pause seen by who starts during it")
        assert not any(parts(runner)._seats for runner in runners)
        assert await stage.rows(runners[0], select(func.count()).select_from(applied)) == before
        assert not any(runner.missing() for runner in runners), "waiting is well"

        assert await control.resume(HANDLER)
        await traffic.during(spread(runners, 8))
        await in_order(stage, runners[0], traffic)

    played(tmp_path, url, test)


@pytest.mark.parametrize(("before", "after"), [(2, 4), (1, 3)])
def test_a_release_with_more_partitions_takes_over_under_traffic(tmp_path: Path, url: str, before: int, after: int) -> None:
    async def test(stage: Stage) -> None:
        traffic = Traffic(stage)
        old = await stage.run(mail(before))
        await traffic.round()  # above the handler's horizon, since it runs
        new = await traffic.during(stage.run(mail(after)))
        if before > 1:  # the old release runs on, and takes its share of the new partitions
            await traffic.during(spread([old, new], after))
        await traffic.during(stage.stop(old))
        await traffic.during(spread([new], after))
        await in_order(stage, new, traffic)
        assert (await new.depths()).keys() >= {f"eventplat.mail.on-moved.p{number:02}" for number in range(1, after)}

    played(tmp_path, url, test)


def test_fewer_partitions_are_applied_and_what_waited_in_the_others_is_consumed(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        traffic = Traffic(stage)
        old = await stage.run(mail(4))
        await traffic.during(stage.stop(old))
        await traffic.round()
        there = await partitions_there(stage.transport, mail(1), stage.names)
        assert there == {HANDLER: 4}
        await traffic.during(stage.transport.declare(topology(mail(1), stage.names, there)))  # as `eventplat topology apply`
        before = [await stage.transport.depth(f"eventplat.mail.on-moved.p{number:02}") for number in (1, 2, 3)]
        await traffic.round()
        assert before == [await stage.transport.depth(f"eventplat.mail.on-moved.p{number:02}") for number in (1, 2, 3)]
        assert all(before)
        new = await stage.run(mail(1))
        await spread([new], 4)
        await in_order(stage, new, traffic)

    played(tmp_path, f"sqlite:///{tmp_path / 'mail.db'}", test)


def test_an_older_release_that_starts_beside_a_newer_one_takes_no_lane_back(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        traffic = Traffic(stage)
        new = await stage.run(mail(4))
        old = await stage.run(mail(2))
        names = parts(new).queues
        for runner in (new, old):
            await stage.stop(runner)
        await traffic.round()
        assert [await stage.transport.depth(name) for name in names] == [len(KEYS) // 4] * 4

    played(tmp_path, f"sqlite:///{tmp_path / 'mail.db'}", test)


def test_an_instance_that_lost_a_lease_hands_back_and_stands_again(tmp_path: Path, url: str) -> None:
    async def test(stage: Stage) -> None:
        traffic = Traffic(stage)
        runner = await stage.run(mail(4))
        await spread([runner], 4)
        before = parts(runner)._seats[1]
        its = update(lease).where(lease.c.name == f"{HANDLER}/partition/01")
        await stage.rows(runner, its.values(holder="another", token=lease.c.token + 1, until_us=now_us() + TERM_S * 1_000_000))
        await traffic.during(until(lambda: 1 not in parts(runner)._seats, "handed back"))
        assert parts(runner).mine == {0, 2, 3}
        assert parts(runner).is_active
        await stage.rows(runner, its.values(until_us=0))  # the other one's term has passed
        await spread([runner], 4)
        assert parts(runner)._seats[1] is not before
        await in_order(stage, runner, traffic)

    played(tmp_path, url, test)


def test_an_instance_whose_database_is_silent_stops_at_two_thirds_of_its_term_and_hands_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own clock and without an answer: the consumer is gone, and what it had is in the queue again."""
    is_running, is_over = asyncio.Event(), asyncio.Event()

    async def test(stage: Stage) -> None:
        service = Service("mail")

        @service.on(Moved, ordered=True, partitions=2)
        async def on_moved(event: Moved, ctx: Context) -> None:
            is_running.set()
            await is_over.wait()

        runner = await stage.run(service)
        await Traffic(stage).round()
        await is_running.wait()

        async def silent() -> frozenset[str]:
            await is_over.wait()
            return frozenset()

        monkeypatch.setattr(parts(runner)._leases, "renew", silent)
        parts(runner)._leases._held.clear()  # as when the last renewal is two thirds of a term ago
        await until(lambda: parts(runner).in_flight == 0 and not parts(runner)._seats, "stopped")
        assert not parts(runner).is_active
        depths = [await stage.transport.depth(name) for name in parts(runner).queues]
        assert depths == [len(KEYS) // 2] * 2
        is_over.set()

    played(tmp_path, f"sqlite:///{tmp_path / 'mail.db'}", test, drain_s=0.1)


def test_a_partition_whose_queue_an_operator_deleted_is_forgotten(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        runner = await stage.run(mail(2))
        async with runner.out.database.transaction() as connection:
            await announce(connection, [f"{HANDLER}/partition/02"])
        await until(lambda: len(parts(runner).queues) == 3, "seen")
        await until(lambda: len(parts(runner).queues) == 2, "forgotten")
        assert await stage.rows(runner, select(lease.c.name).where(lease.c.name.endswith("/02"))) == []
        await spread([runner], 2)

    played(tmp_path, f"sqlite:///{tmp_path / 'mail.db'}", test)
