"""The order of a key, on both databases: nothing is dropped, nothing applied twice, nothing held silently for ever."""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from eventplat.clock import SystemClock
from eventplat.messages.envelope import Envelope
from eventplat.messages.ids import new_id
from eventplat.messages.message import Event, Key
from eventplat.retry import Retry
from eventplat.service.context import Context
from eventplat.service.endpoint import topology
from eventplat.service.runner import Runner
from eventplat.service.service import Service
from eventplat.storage.database import Database
from eventplat.storage.migrate import upgrade
from eventplat.storage.tables import now_us
from eventplat.transactions import held, inbox, pending, watermark
from eventplat.transactions.held import Held
from eventplat.transactions.pending import pending as rows
from tests.conformance.stage import Stage, until

SECOND = 1_000_000
HANDLER = "mail.on-moved"


class Moved(Event, name="stock.moved"):
    sku: Key[str]
    n: int


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'mail.db'}"
    from tests.servers import fresh_database  # noqa: PLC0415 - starts a server, only when a test needs it

    return fresh_database()


class Mail:
    """An ordered handler that fails where it is told to."""

    def __init__(self, *, fails_once: int | None = None, dead: int | None = None) -> None:
        self.applied: list[int] = []
        self._fails_once, self._dead = fails_once, dead
        self.service = Service("mail", retry=Retry(attempts=2, first=0.05))
        self.service.on(Moved, ordered=True)(self.on_moved)

    async def on_moved(self, event: Moved, ctx: Context) -> None:
        if event.n == self._dead or (event.n == self._fails_once and ctx.attempt == 1):
            raise RuntimeError("told to")
        self.applied.append(event.n)


def chain(stage: Stage, start_us: int, count: int) -> list[tuple[Moved, Envelope]]:
    """`count` events of one key from `start_us` on, a microsecond apart; the first follows one that nobody sends."""
    events = [Moved(sku="a", n=n) for n in range(count)]
    return [(event, stage.envelope(event, seq=start_us + event.n, prev=start_us + event.n - 1)) for event in events]


def played(folder: Path, url: str, test: Callable[[Stage], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with Stage(folder, url) as stage:
            await test(stage)

    asyncio.run(whole())


async def held_too_long(stage: Stage, runner: Runner) -> None:
    """Look at what is held as if it had waited for its patience."""
    await stage.rows(runner, update(rows).where(rows.c.state == "held").values(due_us=rows.c.due_us - watermark.PATIENCE_US))
    await Held(runner.out.database, stage.clock).run_once()


def test_an_event_from_before_the_first_start_that_fails_once_is_applied_late_and_not_dropped(tmp_path: Path, url: str) -> None:
    mail = Mail(fails_once=0)

    async def test(stage: Stage) -> None:
        await stage.transport.declare(topology(mail.service, stage.names))  # bound long before it starts
        sent = chain(stage, stage.clock.time_us() - SECOND, 3)
        await stage.send(*sent)
        runner = await stage.run(mail.service)
        await until(lambda: len(mail.applied) == 3)
        assert sorted(mail.applied) == [0, 1, 2]
        (newest,) = await stage.rows(runner, select(watermark.watermark.c.seq).where(watermark.watermark.c.key == "a"))
        assert newest.seq == sent[-1][1].seq

    played(tmp_path, url, test)


def test_an_event_that_follows_one_from_before_we_subscribed_on_a_clock_ahead_of_ours_is_let_go(tmp_path: Path, url: str) -> None:
    mail = Mail()

    async def test(stage: Stage) -> None:
        runner = await stage.run(mail.service)
        ahead = stage.clock.time_us() + 3_600 * SECOND
        await stage.send(*chain(stage, ahead, 2))
        await until(lambda: stage.rows(runner, select(rows.c.message_id).where(rows.c.seq == ahead + 1)))
        assert mail.applied == []
        await held_too_long(stage, runner)
        await until(lambda: mail.applied == [0, 1])

    played(tmp_path, url, test)


def test_behind_a_backlog_an_event_is_only_late_and_its_successor_is_not_let_go(tmp_path: Path, url: str) -> None:
    mail = Mail()

    async def test(stage: Stage) -> None:
        runner = await stage.run(mail.service)
        (event, envelope), second = chain(stage, stage.clock.time_us() + SECOND, 2)
        first = (event, replace(envelope, prev=None))
        await stage.send(second)
        await until(lambda: stage.rows(runner, select(rows.c.message_id).where(rows.c.state == "held")))
        consumer = next(each for each in runner._consumers if each.queue.name == stage.names.queue(HANDLER))
        await consumer.pause()
        await stage.send(first)
        overdue = update(rows).where(rows.c.state == "held").values(due_us=rows.c.due_us - watermark.PATIENCE_US)
        await stage.rows(runner, overdue)
        await runner.out.held.run_once()
        assert len(await stage.rows(runner, select(rows.c.message_id).where(rows.c.state == "held"))) == 1
        await consumer.resume()
        await until(lambda: len(mail.applied) == 2)
        assert mail.applied == [0, 1]

    played(tmp_path, url, test)


def test_one_dead_event_holds_its_successors_with_a_warning_until_an_operator_skips_it(
    tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    mail = Mail(dead=1)

    async def test(stage: Stage) -> None:
        runner = await stage.run(mail.service)
        sent = chain(stage, stage.clock.time_us() + SECOND, 4)
        sent[0] = (sent[0][0], replace(sent[0][1], prev=None))
        await stage.send(*sent)

        async def states() -> bool:
            found = await stage.rows(runner, select(rows.c.state).order_by(rows.c.seq))
            return [row.state for row in found] == ["dead", "held", "held"]

        await until(states)
        with caplog.at_level(logging.WARNING, held.__name__):
            watch = Held(runner.out.database, stage.clock)
            for _ in range(3):
                await stage.rows(runner, update(rows).where(rows.c.state == "held").values(due_us=now_us() - 1))
                await watch.run_once()
        (warning,) = [record.getMessage() for record in caplog.records if record.name == held.__name__]
        assert f"holds event {sent[2][1].id} of key 'a'" in warning
        assert f"event {sent[1][1].id}, which is dead" in warning
        assert mail.applied == [0]
        async with runner.out.database.transaction() as connection:
            assert not await watermark.skip(connection, HANDLER, sent[1][1].id)  # it is dead, not held
            assert await watermark.skip(connection, HANDLER, sent[2][1].id)
        await until(lambda: mail.applied == [0, 2, 3])

    played(tmp_path, url, test)


def test_the_retries_are_woken_for_what_was_released_once_that_is_committed(tmp_path: Path) -> None:
    mail = Mail()
    file = tmp_path / "mail.db"

    async def test(stage: Stage) -> None:
        runner = await stage.run(mail.service)
        seen: list[str] = []
        first, second = chain(stage, stage.clock.time_us() + SECOND, 2)
        await stage.send(second)
        await until(lambda: stage.rows(runner, select(rows.c.message_id)))
        wake = runner.pipeline.failures.wake_pending

        def look() -> None:
            with closing(sqlite3.connect(file)) as other:  # sees what is committed, now
                seen.extend(state for (state,) in other.execute("SELECT state FROM eventplat_pending"))
            wake()

        runner.pipeline.failures.wake_pending = look
        await stage.send((first[0], replace(first[1], prev=None)))
        await until(lambda: mail.applied == [0, 1])
        assert seen[0] == "retry"

    played(tmp_path, f"sqlite:///{file}", test)


# --- the rule, under any failures -----------------------------------------------------------------


@dataclass
class World:
    """One handler in one database; deliveries, failures and retries as a test draws them. No clock passes by itself."""

    database: Database
    chance: random.Random
    applied: list[Envelope] = field(default_factory=list)

    async def run(self, envelope: Envelope, *, fails: bool, from_pending: bool) -> None:
        """One attempt, as the pipeline makes it."""
        try:
            async with self.database.transaction() as connection:
                if from_pending:
                    await pending.remove(connection, HANDLER, envelope.id)
                if not await inbox.claim(connection, HANDLER, envelope, handler=None if from_pending else HANDLER):
                    return
                if await watermark.advance(connection, HANDLER, envelope) == "wait":
                    await inbox.forget(connection, HANDLER, envelope.id)
                    await pending.record(connection, HANDLER, envelope, state="held", attempts=0, wait_us=1, error=None)
                    return
                await watermark.release(connection, HANDLER, envelope)
                self._handle(envelope, fails)
        except ZeroDivisionError:
            async with self.database.transaction() as connection:
                await pending.record(connection, HANDLER, envelope, state="retry", attempts=1, wait_us=0, error=None)

    def _handle(self, envelope: Envelope, fails: bool) -> None:
        if fails:
            raise ZeroDivisionError
        self.applied.append(envelope)

    async def run_pending(self, *, fails: Callable[[], bool]) -> bool:
        async with self.database.transaction() as connection:
            due = await pending.count_due(connection, [HANDLER], "retry", lease_us=0, limit=100)
        self.chance.shuffle(due)
        for row in due:
            await self.run(row.envelope(), fails=fails(), from_pending=True)
        return bool(due)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(2, 12), follows_one_unsent=st.booleans(), before_start=st.integers(0, 5), skew_s=st.integers(-30, 30),
    seed=st.integers(0, 1 << 32), failure=st.sampled_from([0.0, 0.2, 0.6]),
)  # fmt: skip
def test_whatever_fails_comes_twice_or_late_each_event_is_applied_once_and_in_order_above_the_horizon(
    count: int, follows_one_unsent: bool, before_start: int, skew_s: int, seed: int, failure: float
) -> None:
    """Events a second apart: some before the queue was bound, some before the first start, the producer's clock off."""
    applied, sent, horizon_us, newest_us = asyncio.run(_play(count, follows_one_unsent, before_start, skew_s, random.Random(seed), failure))

    assert sorted(envelope.id for envelope in applied) == sorted(envelope.id for envelope in sent)
    assert newest_us == sent[-1].seq
    strict = [envelope.seq for envelope in applied if (envelope.prev or 0) >= max(horizon_us, sent[0].seq or 0)]
    assert strict == sorted(strict, key=lambda seq: seq or 0)


async def _play(
    count: int, follows_one_unsent: bool, before_start: int, skew_s: int, chance: random.Random, failure: float
) -> tuple[list[Envelope], list[Envelope], int, int]:
    clock = SystemClock()
    database = Database("sqlite://", service="mail", clock=clock, pool_size=2)
    try:
        await upgrade(database)
        async with database.transaction() as connection:
            horizon_us = await watermark.subscribe(connection, HANDLER)
        first_us = horizon_us + (skew_s - before_start) * SECOND
        events = [
            Envelope(
                id=new_id(clock.time_us(), chance), type="stock.moved.v1", body=b"{}", correlation_id="", app_id="stock", key="a",
                stream="moved", seq=first_us + n * SECOND, prev=first_us + (n - 1) * SECOND if n or follows_one_unsent else None,
            )
            for n in range(count)
        ]  # fmt: skip
        world = World(database, chance)

        def fails() -> bool:
            return chance.random() < failure

        deliveries = events + chance.sample(events, k=chance.randint(0, count))
        chance.shuffle(deliveries)
        for envelope in deliveries:
            await world.run(envelope, fails=fails(), from_pending=False)
            if chance.random() < 0.5:
                await world.run_pending(fails=fails)
        watch = Held(database, clock)
        while await world.run_pending(fails=fails) or await _is_held(database):
            async with database.transaction() as connection:  # as if each had waited for its patience from when it came
                await connection.execute(update(rows).where(rows.c.state == "held").values(due_us=now_us() - 1))
            await watch.run_once()
        async with database.transaction(read_only=True) as connection:
            found = select(watermark.watermark.c.seq).where(watermark.watermark.c.key == "a")
            newest_us: int = (await connection.execute(found)).scalar_one()
        return world.applied, events, horizon_us, newest_us
    finally:
        await database.close()


async def _is_held(database: Database) -> bool:
    async with database.transaction(read_only=True) as connection:
        return (await connection.execute(select(rows.c.message_id).where(rows.c.state == "held"))).first() is not None
