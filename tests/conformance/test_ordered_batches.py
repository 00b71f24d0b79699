"""Ordered handlers in batches, on both databases: order per key, once each, whatever comes late, twice or fails."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from eventplat.errors import Rejected
from eventplat.messages.envelope import Envelope
from eventplat.messages.message import Event, Key
from eventplat.retry import Retry
from eventplat.service.batches import Batches
from eventplat.service.context import Context
from eventplat.service.runner import Runner
from eventplat.service.service import Service
from eventplat.transactions import dead_letters, pending, turns, watermark
from eventplat.transactions.held import hold
from eventplat.transactions.inbox import inbox
from eventplat.transactions.outbox_tables import event_log
from tests.conformance.stage import Stage, until

SECOND = 1_000_000
HANDLER = "mail.on-moved"
COUNT = 12
KEYS = ("a", "b", "c")

Act = Callable[["Moved", Context], Awaitable[None]]
Sent = list[tuple[Event, Envelope]]


class Moved(Event, name="stock.moved", stream="stock"):
    sku: Key[str]
    n: int


class Counted(Event, name="stock.counted", stream="stock"):
    """Another event of the stream, which nobody here handles."""

    sku: Key[str]


class Noted(Event, name="mail.noted"):
    sku: Key[str]
    n: int


class Mail:
    """Notes what it applied and in which transaction; does what the test tells it before."""

    def __init__(self, act: Act | None = None, *, concurrency: int | None = None) -> None:
        self.applied: defaultdict[str, list[int]] = defaultdict(list)
        self.together: defaultdict[int, list[int]] = defaultdict(list)
        self._act = act
        self.service = Service("mail", retry=Retry(attempts=2, first=0.05))
        self.service.on(Moved, ordered=True, batch=20, concurrency=concurrency)(self.on_moved)

    async def on_moved(self, event: Moved, ctx: Context) -> None:
        if self._act is not None:
            await self._act(event, ctx)
        applied, together = self.applied[event.sku], self.together[id(ctx.db)]
        applied.append(event.n)
        together.append(event.n)

    @property
    def count(self) -> int:
        return sum(map(len, self.applied.values()))


@pytest.fixture(params=["sqlite", "postgresql"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    if request.param == "sqlite":
        return Stage(tmp_path, None)
    from tests.servers import fresh_database  # noqa: PLC0415 - starts a server, only when a test needs it

    return Stage(tmp_path, fresh_database())


def run(stage: Stage, mail: Mail, test: Callable[[Runner], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with stage:
            await test(await stage.run(mail.service))

    asyncio.run(whole())


def chains(stage: Stage, count: int = COUNT, keys: tuple[str, ...] = KEYS) -> Sent:
    """`count` events of each key, a microsecond apart, the keys in turn; the first of each follows nothing."""
    start = stage.clock.time_us() + SECOND
    sent: Sent = []
    for n in range(count):
        for sku in keys:
            event = Moved(sku=sku, n=n)
            sent.append((event, stage.envelope(event, seq=start + n, prev=start + n - 1 if n else None)))
    return sent


async def states(stage: Stage, runner: Runner) -> list[str]:
    return [row.state for row in await stage.rows(runner, select(pending.pending.c.state).order_by(pending.pending.c.seq))]


def test_a_batch_applies_each_key_in_its_order_in_few_transactions(stage: Stage) -> None:
    mail = Mail()

    async def test(runner: Runner) -> None:
        await stage.send(*chains(stage))
        await until(lambda: mail.count == COUNT * len(KEYS))
        assert mail.applied == {sku: list(range(COUNT)) for sku in KEYS}
        assert max(map(len, mail.together.values())) > 10
        assert await states(stage, runner) == []
        settled = await stage.rows(runner, select(func.count()).select_from(inbox))
        assert settled[0][0] == COUNT * len(KEYS)

    run(stage, mail, test)


@pytest.mark.parametrize("seed", range(4))
def test_out_of_order_and_twice_each_is_applied_once_and_in_order(stage: Stage, seed: int) -> None:
    mail = Mail(concurrency=2)
    chance = random.Random(seed)

    async def test(runner: Runner) -> None:
        sent = chains(stage, 40)
        mixed = sent + chance.sample(sent, k=30)
        chance.shuffle(mixed)
        while mixed:
            size = chance.randint(1, 25)
            await stage.send(*mixed[:size])
            mixed = mixed[size:]
            await asyncio.sleep(chance.random() / 50)
        await until(lambda: mail.count == len(sent))
        assert mail.applied == {sku: list(range(40)) for sku in KEYS}
        async with asyncio.timeout(10):
            while await states(stage, runner):
                await asyncio.sleep(0.01)
        newest = await stage.rows(runner, select(watermark.watermark.c.seq).where(watermark.watermark.c.key.in_(KEYS)))
        assert {row.seq for row in newest} == {sent[-1][1].seq}

    run(stage, mail, test)


def test_what_waited_for_one_is_run_together_once_that_one_comes(stage: Stage) -> None:
    mail = Mail()

    async def test(runner: Runner) -> None:
        first, *rest = chains(stage, 15, ("a",))
        await stage.send(*rest)

        async def all_held() -> bool:
            return await states(stage, runner) == ["held"] * 14

        await until(all_held)
        assert mail.count == 0
        await stage.send(first)
        await until(lambda: mail.count == 15)
        assert mail.applied["a"] == list(range(15))
        assert max(map(len, mail.together.values())) == 14
        assert await states(stage, runner) == []

    run(stage, mail, test)


def test_one_that_fails_holds_its_own_key_alone_and_goes_on_with_its_second_attempt(stage: Stage) -> None:
    async def fails_once(event: Moved, ctx: Context) -> None:
        ctx.publish(Noted(sku=event.sku, n=event.n))
        if (event.sku, event.n) == ("b", 3) and ctx.attempt == 1:
            raise RuntimeError("told to")

    mail = Mail(fails_once)

    async def test(runner: Runner) -> None:
        await stage.send(*chains(stage))

        async def committed() -> list[tuple[str, int]]:
            rows = await stage.rows(runner, select(event_log.c.body).order_by(event_log.c.seq))
            noted = [Noted.model_validate_json(row.body) for row in rows]
            return [(note.sku, note.n) for note in noted]

        async def all_committed() -> bool:
            return len(await committed()) == COUNT * len(KEYS)

        await until(all_committed)
        found = await committed()
        assert {sku: [n for key, n in found if key == sku] for sku in KEYS} == {sku: list(range(COUNT)) for sku in KEYS}
        assert found.index(("c", COUNT - 1)) < found.index(("b", 3)), "the other keys did not wait"

    run(stage, mail, test)


def test_a_refused_event_is_settled_and_its_successors_go_on(stage: Stage) -> None:
    async def refuses(event: Moved, ctx: Context) -> None:
        if event.n == 3:
            raise Rejected("not_here")

    mail = Mail(refuses)

    async def test(runner: Runner) -> None:
        await stage.send(*chains(stage, 8, ("a",)))
        await until(lambda: mail.count == 7)
        assert mail.applied["a"] == [0, 1, 2, 4, 5, 6, 7]
        (refused,) = await stage.rows(runner, select(inbox.c.state).where(inbox.c.state != "done"))
        assert refused.state == "rejected"

    run(stage, mail, test)


def test_a_dead_one_holds_the_rest_of_its_key_until_it_is_skipped(stage: Stage) -> None:
    async def never(event: Moved, ctx: Context) -> None:
        if (event.sku, event.n) == ("a", 1):
            raise RuntimeError("told to")

    mail = Mail(never)

    async def test(runner: Runner) -> None:
        sent = chains(stage, 4, ("a", "b"))
        await stage.send(*sent)

        async def dead() -> bool:
            return await states(stage, runner) == ["dead", "held", "held"]

        await until(dead)
        held = next(envelope for event, envelope in sent if isinstance(event, Moved) and (event.sku, event.n) == ("a", 2))
        async with runner.out.database.transaction() as connection:
            assert await watermark.skip(connection, HANDLER, held.id)

        async def only_the_dead() -> bool:
            return await states(stage, runner) == ["dead"]

        await until(only_the_dead)
        assert mail.applied["b"] == [0, 1, 2, 3]
        assert [n for n in mail.applied["a"] if n] == [2, 3]

    run(stage, mail, test)


def test_another_event_of_the_stream_moves_the_watermark_within_the_batch(stage: Stage) -> None:
    mail = Mail()

    async def test(runner: Runner) -> None:
        sent = chains(stage, 6, ("a",))
        between = Counted(sku="a")
        sent[3] = (between, replace(stage.envelope(between), seq=sent[3][1].seq, prev=sent[3][1].prev))
        await stage.send(*sent)
        await until(lambda: mail.count == 5)
        assert mail.applied["a"] == [0, 1, 2, 4, 5]
        assert await states(stage, runner) == []

    run(stage, mail, test)


def test_what_a_newer_release_takes_is_left_to_it_and_what_follows_waits(stage: Stage) -> None:
    mail = Mail()

    async def test(runner: Runner) -> None:
        async with runner.out.database.transaction() as connection:
            await watermark.take(connection, HANDLER, ["stock.counted.v1"])
        sent = chains(stage, 6, ("a",))
        newer = Counted(sku="a")
        sent[3] = (newer, replace(stage.envelope(newer), seq=sent[3][1].seq, prev=sent[3][1].prev))
        await stage.send(*sent)

        async def left() -> bool:
            return await states(stage, runner) == ["retry", "held", "held"]

        await until(left)
        assert mail.applied["a"] == [0, 1, 2]

    run(stage, mail, test)


def test_held_events_keep_their_patience(stage: Stage) -> None:
    mail = Mail()

    async def test(runner: Runner) -> None:
        _, *rest = chains(stage, 5, ("a",))
        before = stage.clock.time_us()
        await stage.send(*rest)

        async def all_held() -> bool:
            return await states(stage, runner) == ["held"] * 4

        await until(all_held)
        due = await stage.rows(runner, select(pending.pending.c.due_us))
        assert all(before < row.due_us - watermark.PATIENCE_US < before + 20 * SECOND for row in due)
        await stage.rows(runner, update(pending.pending).values(state="retry", due_us=0))
        await asyncio.sleep(0)
        runner.pipeline.failures.wake_pending()   # too early: held again, without an attempt
        await until(all_held)
        counted = await stage.rows(runner, select(pending.pending.c.attempts))
        assert {row.attempts for row in counted} == {0}

    run(stage, mail, test)


def test_of_a_long_line_no_more_than_a_batch_is_let_go_at_once(stage: Stage) -> None:
    mail = Mail()

    async def test(runner: Runner) -> None:
        (_, first), *rest = chains(stage, 50, ("a",))
        async with runner.out.database.transaction() as connection:
            await hold(connection, HANDLER, [envelope for _, envelope in rest])
            waiting, has_freed = await turns.advance(connection, HANDLER, [first], limit=20)
            rows = (await connection.execute(select(pending.pending.c.state, pending.pending.c.seq).order_by(pending.pending.c.seq))).all()
            assert (waiting, has_freed) == (frozenset(), True)
            assert [row.state for row in rows] == ["retry"] * 20 + ["held"] * 29
        await until(lambda: mail.count == 49)
        assert mail.applied["a"] == list(range(1, 50))

    run(stage, mail, test)


def test_two_that_wait_for_the_same_watermark_are_both_let_go(stage: Stage) -> None:
    mail = Mail()

    async def test(runner: Runner) -> None:
        sent = [envelope for _, envelope in chains(stage, 6, ("a",))]
        async with runner.out.database.transaction() as connection:
            await hold(connection, HANDLER, [sent[2], sent[5]])     # after 1, which does not come, and after 4, which is skipped
            assert await watermark.skip(connection, HANDLER, sent[5].id)
        await until(lambda: mail.count == 2)
        assert mail.applied["a"] == [2, 5]

    run(stage, mail, test)


def test_one_that_was_to_run_alone_still_does_after_it_was_held(stage: Stage) -> None:
    mail = Mail()

    async def test(runner: Runner) -> None:
        (_, first), (_, second) = chains(stage, 2, ("a",))
        async with runner.out.database.transaction() as connection:
            await pending.record(connection, HANDLER, second, state="isolated", attempts=0, wait_us=0, error=None)
        runner.pipeline.failures.wake_pending()

        async def is_held() -> bool:
            return await states(stage, runner) == ["held"]

        await until(is_held)
        async with runner.out.database.transaction() as connection:
            await turns.advance(connection, HANDLER, [first], limit=20)
            (row,) = (await connection.execute(select(pending.pending.c.state))).all()
            assert row.state == "isolated"
        await until(lambda: mail.applied["a"] == [1])

    run(stage, mail, test)


def test_an_event_with_a_place_but_no_stream_is_let_go_as_any_other(stage: Stage) -> None:
    mail = Mail()

    async def test(runner: Runner) -> None:
        first, *rest = [(event, replace(envelope, stream=None, app_id=None)) for event, envelope in chains(stage, 3, ("a",))]
        await stage.send(*rest)

        async def all_held() -> bool:
            return await states(stage, runner) == ["held", "held"]

        await until(all_held)
        await stage.send(first)
        await until(lambda: mail.count == 3)
        assert mail.applied["a"] == [0, 1, 2]

    run(stage, mail, test)


def test_a_discarded_event_does_not_hold_the_one_that_comes_after_it_later(stage: Stage) -> None:
    async def never(event: Moved, ctx: Context) -> None:
        if event.n == 1:
            raise RuntimeError("told to")

    mail = Mail(never)

    async def test(runner: Runner) -> None:
        first, second, third = chains(stage, 3, ("a",))
        await stage.send(first, second)

        async def is_dead() -> bool:
            return await states(stage, runner) == ["dead"]

        await until(is_dead)
        async with runner.out.database.transaction() as connection:
            assert await dead_letters.discard(connection, [(HANDLER, second[1].id)], is_final=True) == [(HANDLER, second[1].id)]
        await stage.send(third)
        await until(lambda: 2 in mail.applied["a"])
        assert await states(stage, runner) == []

    run(stage, mail, test)


def test_batches_that_were_halved_to_nothing_grow_again(stage: Stage) -> None:
    mail = Mail()

    async def test(runner: Runner) -> None:
        endpoint = next(endpoint for endpoint in runner._endpoints if endpoint.identity == HANDLER)
        batches = Batches(runner.pipeline, endpoint)
        batches._size = 1
        sent = chains(stage, 60, ("a",))
        async with runner.out.database.transaction() as connection:
            for _, envelope in sent:
                await pending.record(connection, HANDLER, envelope, state="retry", attempts=1, wait_us=60 * SECOND, error=None)
            rows = await stage_rows(connection)
        for start in range(0, 60, 20):
            await batches.run_pending(rows[start : start + 20])
        assert mail.applied["a"] == list(range(60))
        assert max(map(len, mail.together.values())) >= 3

    run(stage, mail, test)


async def stage_rows(connection: AsyncConnection) -> list[pending.Pending]:
    found = await connection.execute(select(pending.pending).order_by(pending.pending.c.seq))
    return [pending.read(row) for row in found]
