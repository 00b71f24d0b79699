"""Batches on both databases: one transaction for many messages, and each message's own ending."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from eventplat.errors import Rejected
from eventplat.messages.codec import Properties
from eventplat.messages.envelope import DONE, FAILED, REJECTED, VOID
from eventplat.messages.message import Command, Event, Key
from eventplat.retry import Retry
from eventplat.service.context import Context, SyncContext
from eventplat.service.runner import Runner
from eventplat.service.service import Service
from eventplat.transactions.inbox import inbox
from eventplat.transactions.outbox_tables import event_log, outbox
from eventplat.transactions.pending import pending
from tests.conformance.stage import Stage, until

COUNT = 60


class Base(DeclarativeBase):
    pass


class Entry(Base):
    __tablename__ = "entry"
    id: Mapped[str] = mapped_column(primary_key=True)
    account: Mapped[str]


class Shelf(Base):
    __tablename__ = "shelf"
    name: Mapped[str] = mapped_column(primary_key=True)
    left: Mapped[int]


class Book(Command[int], name="ledger.book"):
    account: Key[str]
    n: int = 0


class Unbook(Command[None], name="ledger.unbook"):
    account: Key[str]


class Booked(Event, name="ledger.booked"):
    account: Key[str]
    n: int = 0


Act = Callable[[Book, Context], Awaitable[None]]


class Ledger:
    """Books entries in batches; does what the test tells it after it has added the entry, or before."""

    def __init__(self, *, before: Act | None = None, after: Act | None = None, batch: int = 20, concurrency: int | None = None) -> None:
        self.before, self.after = before, after
        self.runs: list[str] = []
        self.transactions: dict[int, int] = {}
        self.service = Service("ledger", tables=Base.metadata, retry=Retry(attempts=2, first=600))
        self.service.handles(Book, batch=batch, concurrency=concurrency)(self.book)
        self.service.handles(Unbook)(self.unbook)

    async def book(self, command: Book, ctx: Context) -> int:
        self.runs.append(ctx.envelope.id)
        here = id(ctx.db)
        self.transactions[here] = self.transactions.get(here, 0) + 1
        if self.before is not None:
            await self.before(command, ctx)
        ctx.db.add(Entry(id=ctx.envelope.id, account=command.account))
        ctx.publish(Booked(account=command.account, n=command.n))
        if self.after is not None:
            await self.after(command, ctx)
        return command.n

    async def unbook(self, command: Unbook, ctx: Context) -> None: ...


@pytest.fixture(params=["sqlite", "postgresql"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    if request.param == "sqlite":
        return Stage(tmp_path, None)
    from tests.servers import fresh_database  # noqa: PLC0415 - starts a server, only when a test needs it

    return Stage(tmp_path, fresh_database())


def run(stage: Stage, ledger: Ledger, test: Callable[[Runner], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with stage:
            await test(await stage.run(ledger.service))

    asyncio.run(whole())


async def booked(stage: Stage, commands: list[Book], copies: int = 1) -> list[Any]:
    """Send `commands` in one go, and wait for as many answers to each."""
    sent = [(command, stage.envelope(command)) for command in commands]
    await stage.send(*(pair for pair in sent for _ in range(copies)))
    return [await stage.answer_to(envelope.id, copies) for _, envelope in sent]


async def entries(stage: Stage, runner: Runner) -> list[str]:
    return sorted(row.account for row in await stage.rows(runner, select(Entry.account)))


def accounts(count: int = COUNT) -> list[str]:
    return [f"a{n:03}" for n in range(count)]


def test_many_messages_share_a_transaction_and_each_has_its_answer_and_its_event(stage: Stage) -> None:
    ledger = Ledger()

    async def test(runner: Runner) -> None:
        answers = await booked(stage, [Book(account=name, n=n) for n, name in enumerate(accounts())])
        assert [(answer.type, int(answer.body)) for answer in answers] == [(DONE, n) for n in range(COUNT)]
        assert await entries(stage, runner) == accounts()
        assert len(await stage.rows(runner, select(event_log.c.id))) == COUNT
        assert len(ledger.runs) == COUNT
        assert max(ledger.transactions.values()) == 20, "as many as batch= allows"

    run(stage, ledger, test)


def test_copies_in_one_batch_and_in_later_ones_have_one_effect_and_the_recorded_answer(stage: Stage) -> None:
    ledger = Ledger()

    async def test(runner: Runner) -> None:
        answers = await booked(stage, [Book(account=name, n=n) for n, name in enumerate(accounts())], copies=3)
        assert [int(answer.body) for answer in answers] == list(range(COUNT))
        again = await stage.ask(Book(account="a000", n=0), id_=answers[0].causation)
        assert (again.type, again.body) == (DONE, answers[0].body)
        assert await entries(stage, runner) == accounts()
        assert len(await stage.rows(runner, select(event_log.c.id))) == COUNT

    run(stage, ledger, test)


def test_a_batch_that_an_instance_had_not_committed_when_it_stopped_is_done_by_another(stage: Stage) -> None:
    begun = asyncio.Event()

    async def hang(command: Book, ctx: Context) -> None:
        begun.set()
        await asyncio.Event().wait()

    ledger = Ledger(after=hang)

    async def test(runner: Runner) -> None:
        sent = [(command, stage.envelope(command)) for command in (Book(account=name) for name in accounts(5))]
        await stage.send(*sent)
        await begun.wait()
        await stage.stop(runner)
        ledger.after = None
        another = await stage.run(ledger.service)
        assert [(await stage.answer_to(envelope.id)).type for _, envelope in sent] == [DONE] * 5
        assert await entries(stage, another) == accounts(5)

    stage.settings = stage.settings.model_copy(update={"drain_s": 0.05})
    run(stage, ledger, test)


async def refuse_some(command: Book, ctx: Context) -> None:
    if command.n % 3 == 0:
        raise Rejected("no", n=command.n)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_no_is_an_outcome_of_its_own_message_before_its_first_write_and_after_it(stage: Stage, moment: str) -> None:
    ledger = Ledger(**{moment: refuse_some})  # type: ignore[arg-type]

    async def test(runner: Runner) -> None:
        answers = await booked(stage, [Book(account=name, n=n) for n, name in enumerate(accounts())])
        assert [answer.type for answer in answers] == [REJECTED if n % 3 == 0 else DONE for n in range(COUNT)]
        assert await entries(stage, runner) == [name for n, name in enumerate(accounts()) if n % 3]
        assert len(await stage.rows(runner, select(event_log.c.id))) == COUNT - COUNT // 3
        states = sorted(row.state for row in await stage.rows(runner, select(inbox.c.state).where(inbox.c.consumer == "ledger")))
        assert states == ["done"] * (COUNT - COUNT // 3) + ["rejected"] * (COUNT // 3)
        if moment == "before":
            assert len(ledger.runs) == COUNT, "nobody ran again"

    run(stage, ledger, test)


def test_a_failing_message_waits_alone_and_the_others_are_done_once(stage: Stage) -> None:
    async def fail(command: Book, ctx: Context) -> None:
        if command.n in (7, 8, 41):
            raise RuntimeError("broken")

    async def test(runner: Runner) -> None:
        sent = [(Book(account=name, n=n), stage.envelope(Book(account=name, n=n))) for n, name in enumerate(accounts())]
        await stage.send(*sent)
        for command, envelope in sent:
            if command.n not in (7, 8, 41):
                assert (await stage.answer_to(envelope.id)).type == DONE
        await until(lambda: waiting(stage, runner, 3), "three wait for their next attempt")
        assert await entries(stage, runner) == [name for n, name in enumerate(accounts()) if n not in (7, 8, 41)]
        await stage.send(*sent[5:10])  # copies from the wire: those that wait do not run
        assert (await stage.answer_to(sent[5][1].id, 2)).type == DONE
        await stage.rows(runner, update(pending).values(due_us=0))
        runner.pipeline.failures.wake_pending()
        assert (await stage.answer_to(sent[7][1].id)).type in (FAILED, "eventplat.running.v1")
        await until(lambda: waiting(stage, runner, 3, state="dead"), "and are dead after their last")
        assert await stage.rows(runner, select(outbox.c.id)) == []

    run(stage, Ledger(after=fail), test)


async def waiting(stage: Stage, runner: Runner, count: int, state: str = "retry") -> bool:
    return len(await stage.rows(runner, select(pending.c.message_id).where(pending.c.state == state))) == count


def test_a_flush_that_fails_for_one_of_them_is_found_and_the_others_are_done(stage: Stage) -> None:
    async def collide(command: Book, ctx: Context) -> None:
        if command.n == 33:
            ctx.db.add(Entry(id="taken", account="x"))

    ledger = Ledger(after=collide)

    async def test(runner: Runner) -> None:
        await stage.rows(runner, Entry.__table__.insert().values(id="taken", account="first"))  # type: ignore[attr-defined]
        sent = [(Book(account=name, n=n), stage.envelope(Book(account=name, n=n))) for n, name in enumerate(accounts())]
        await stage.send(*sent)
        for command, envelope in sent:
            if command.n != 33:
                assert (await stage.answer_to(envelope.id)).type == DONE
        await until(lambda: waiting(stage, runner, 1), "one waits for its next attempt")
        found = await stage.rows(runner, select(pending.c.errors))
        assert json.loads(found[0].errors)[0]["type"] == IntegrityError.__name__
        assert await entries(stage, runner) == sorted(["first", *(name for n, name in enumerate(accounts()) if n != 33)])

    run(stage, ledger, test)


def test_what_is_no_message_late_or_an_undo_is_settled_beside_the_batch(stage: Stage) -> None:
    ledger = Ledger()

    async def test(runner: Runner) -> None:
        late, tombstone = Book(account="late"), Book(account="undone")
        expired = replace(stage.envelope(late), deadline_ms=1)
        undone = stage.envelope(tombstone)
        undo = stage.envelope(Unbook(account="undone"), undoes=undone.id)
        await stage.send((Unbook(account="undone"), undo))
        assert (await stage.answer_to(undo.id)).type == VOID
        await stage.send_bytes(late, b"{", Properties(message_id="not an id"))
        fine = [(Book(account=name), stage.envelope(Book(account=name))) for name in accounts(5)]
        await stage.send(*fine, (late, expired), (tombstone, undone))
        assert [(await stage.answer_to(envelope.id)).type for _, envelope in fine] == [DONE] * 5
        assert (await stage.answer_to(expired.id)).type == VOID
        assert (await stage.answer_to(undone.id)).type == VOID
        await until(lambda: waiting(stage, runner, 1, state="dead"), "the malformed one is parked")
        assert await entries(stage, runner) == accounts(5)

    run(stage, ledger, test)


def test_batches_that_lock_crosswise_all_end_well(stage: Stage) -> None:
    names = ("x", "y")

    async def take(command: Book, ctx: Context) -> None:
        order = names if command.n % 2 else names[::-1]
        for name in order:
            shelf = await ctx.db.get(Shelf, name, with_for_update=True, populate_existing=True)
            assert shelf is not None
            shelf.left -= 1
            await ctx.db.flush()

    ledger = Ledger(before=take, batch=10, concurrency=3)

    async def test(runner: Runner) -> None:
        for name in names:
            await stage.rows(runner, Shelf.__table__.insert().values(name=name, left=COUNT))  # type: ignore[attr-defined]
        answers = await booked(stage, [Book(account=name, n=n) for n, name in enumerate(accounts())])
        assert {answer.type for answer in answers} == {DONE}
        assert {row.left for row in await stage.rows(runner, select(Shelf.left))} == {0}
        assert await entries(stage, runner) == accounts()

    run(stage, ledger, test)


def test_def_handlers_work_in_batches_too(stage: Stage) -> None:
    service = Service("ledger", tables=Base.metadata)

    @service.handles(Book, batch=20)
    def book(command: Book, ctx: SyncContext) -> int:
        if command.n == 3:
            raise Rejected("no")
        ctx.db.add(Entry(id=ctx.envelope.id, account=command.account))
        ctx.db.flush()
        return command.n

    async def test(runner: Runner) -> None:
        answers = await booked(stage, [Book(account=name, n=n) for n, name in enumerate(accounts(20))])
        assert [answer.type for answer in answers] == [REJECTED if n == 3 else DONE for n in range(20)]
        assert len(await entries(stage, runner)) == 19

    async def whole() -> None:
        async with stage:
            await test(await stage.run(service))

    asyncio.run(whole())
