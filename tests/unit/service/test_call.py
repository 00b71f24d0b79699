"""How a handler is called: threads and sessions, middleware, state, scopes, and the order of a key."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from eventplat.errors import Rejected
from eventplat.messages.envelope import DONE, REJECTED
from eventplat.messages.message import Command, Event, Key, Message
from eventplat.retry import Retry
from eventplat.service.context import Context, SyncContext
from eventplat.service.service import Service
from eventplat.transactions.pending import pending
from tests.conformance.stage import Stage, until


class Base(DeclarativeBase):
    pass


class Shelf(Base):
    __tablename__ = "shelf"
    sku: Mapped[str] = mapped_column(primary_key=True)
    left: Mapped[int]


class Fill(Command[int], name="stock.fill"):
    sku: Key[str]
    n: int


class Moved(Event, name="stock.moved"):
    sku: Key[str]
    n: int = 0


class Painted(Event, name="stock.painted"):
    sku: Key[str]


def run(folder: Path, test: Callable[[Stage], Awaitable[None]], **settings: object) -> None:
    async def whole() -> None:
        async with Stage(folder, None, **settings) as stage:
            await test(stage)

    asyncio.run(whole())


# --- def handlers ---------------------------------------------------------------------------------


def threaded(names: list[str]) -> Service[None]:
    stock = Service("stock", tables=Base.metadata)

    @stock.handles(Fill)
    def fill(command: Fill, ctx: SyncContext) -> int:
        names.append(threading.current_thread().name)
        assert isinstance(ctx.db, Session)
        shelf = ctx.db.get(Shelf, command.sku)
        if shelf is None:
            shelf = Shelf(sku=command.sku, left=0)
            ctx.db.add(shelf)
        shelf.left += command.n
        ctx.publish(Moved(sku=command.sku, n=command.n))
        if command.n < 0:
            ctx.db.flush()
            raise Rejected("negative", n=command.n)
        return shelf.left

    return stock


def test_a_def_handler_runs_in_a_thread_with_a_real_session_of_the_same_transaction(tmp_path: Path) -> None:
    names: list[str] = []

    async def test(stage: Stage) -> None:
        runner = await stage.run(threaded(names))
        first = await stage.ask(Fill(sku="a", n=3))
        assert (first.type, first.body) == (DONE, b"3")
        assert (await stage.ask(Fill(sku="a", n=3), id_=first.causation)).body == b"3"
        assert (await stage.ask(Fill(sku="a", n=4))).body == b"7"
        assert (await stage.ask(Fill(sku="a", n=-5))).type == REJECTED
        assert [row.left for row in await stage.rows(runner, select(Shelf.left))] == [7]
        assert threading.main_thread().name not in names
        assert len(names) == 3

    run(tmp_path, test)


# --- middleware, state ----------------------------------------------------------------------------


def test_middleware_runs_outermost_first_inside_the_transaction(tmp_path: Path) -> None:
    seen: list[str] = []

    def named(name: str) -> Any:
        async def around(message: Message, ctx: Context[Any], call_next: Any) -> object:
            seen.append(f"{name} in")
            ctx.db.add(Shelf(sku=name, left=1))
            answer = await call_next(message, ctx)
            seen.append(f"{name} out")
            return answer

        return around

    stock = Service("stock", tables=Base.metadata, middleware=[named("outer"), named("inner")])

    @stock.handles(Fill)
    async def fill(command: Fill, ctx: Context) -> int:
        seen.append("handler")
        if command.n < 0:
            raise Rejected("negative")
        return command.n

    async def test(stage: Stage) -> None:
        runner = await stage.run(stock)
        await stage.ask(Fill(sku="a", n=-1))
        assert await stage.rows(runner, select(Shelf.sku)) == []
        seen.clear()
        await stage.ask(Fill(sku="a", n=1))
        assert seen == ["outer in", "inner in", "handler", "inner out", "outer out"]
        assert sorted(row.sku for row in await stage.rows(runner, select(Shelf.sku))) == ["inner", "outer"]

    run(tmp_path, test)


def with_state(events: list[str]) -> Service[str]:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[str]:
        events.append("opened")
        yield "real"
        events.append("closed")

    stock = Service("stock", lifespan=lifespan)

    @stock.handles(Fill)
    async def fill(command: Fill, ctx: Context[str]) -> int:
        events.append(ctx.state)
        return 0

    return stock


def test_what_the_lifespan_yields_is_the_state_and_is_closed_at_the_stop(tmp_path: Path) -> None:
    events: list[str] = []

    async def test(stage: Stage) -> None:
        runner = await stage.run(with_state(events))
        await stage.ask(Fill(sku="a", n=1))
        await stage.stop(runner)
        assert events == ["opened", "real", "closed"]

    run(tmp_path, test)


def test_using_gives_a_copy_its_own_state_and_leaves_the_service_alone(tmp_path: Path) -> None:
    events: list[str] = []
    stock = with_state(events)

    async def test(stage: Stage) -> None:
        fake = await stage.run(stock.using("fake"))
        await stage.ask(Fill(sku="a", n=1))
        await stage.stop(fake)
        assert events == ["fake"]
        await stage.run(stock)
        await stage.ask(Fill(sku="a", n=1))
        assert events == ["fake", "opened", "real"]

    run(tmp_path, test)


# --- scopes ---------------------------------------------------------------------------------------


def test_a_caller_without_the_scope_is_refused_and_one_with_it_is_served(tmp_path: Path) -> None:
    stock = Service("stock")

    @stock.handles(Fill, requires="stock:write")
    async def fill(command: Fill, ctx: Context) -> int:
        return command.n

    async def test(stage: Stage) -> None:
        await stage.run(stock)
        refused = await stage.ask(Fill(sku="a", n=1), app_id="gateway")
        assert json.loads(refused.body) == {"reason": "forbidden", "status": 403, "facts": {"missing": ["stock:write"]}}
        assert (await stage.ask(Fill(sku="a", n=1), app_id="mail")).type == REJECTED
        assert (await stage.ask(Fill(sku="a", n=1), app_id="orders")).type == DONE

    run(tmp_path, test, service_scopes={"orders": ("stock:write",), "mail": ("stock:read",)})


# --- the order of a key ---------------------------------------------------------------------------


def ordered(seen: list[int], fails_at: int | None = None) -> Service[None]:
    mail = Service("mail", retry=Retry(first=0.05))

    @mail.on(Moved, ordered=True)
    async def moved(event: Moved, ctx: Context) -> None:
        if event.n == fails_at and ctx.attempt == 1:
            raise RuntimeError("once")
        seen.append(event.n)

    return mail


def history(stage: Stage, count: int) -> list[tuple[Moved, Any]]:
    """`count` events of one key, each following the one before, as their producer numbers them."""
    start = stage.clock.time_us() + 1_000_000
    numbered: list[tuple[Moved, Any]] = []
    for n in range(count):
        event = Moved(sku="a", n=n)
        envelope = stage.envelope(event, seq=start + n, prev=start + n - 1 if n else None)
        numbered.append((event, envelope))
    return numbered


def test_shuffled_events_of_a_key_are_applied_in_order_and_copies_ignored(tmp_path: Path) -> None:
    seen: list[int] = []

    async def test(stage: Stage) -> None:
        runner = await stage.run(ordered(seen))
        sent = history(stage, 20)
        shuffled = sent + sent
        random.Random(7).shuffle(shuffled)
        await stage.send(*shuffled)
        await until(lambda: len(seen) >= 20)

        async def is_empty() -> bool:
            return not await stage.rows(runner, select(pending.c.message_id))

        await until(is_empty, "nothing held")
        assert seen == list(range(20))

    run(tmp_path, test)


def test_an_event_waits_for_the_one_before_it_that_failed(tmp_path: Path) -> None:
    seen: list[int] = []

    async def test(stage: Stage) -> None:
        await stage.run(ordered(seen, fails_at=1))
        await stage.send(*history(stage, 4))
        await until(lambda: len(seen) >= 4)
        assert seen == [0, 1, 2, 3]

    run(tmp_path, test)


def test_another_event_of_the_stream_moves_the_order_and_calls_nobody(tmp_path: Path) -> None:
    seen: list[int] = []

    async def test(stage: Stage) -> None:
        await stage.run(ordered(seen))
        (first, one), (_, two), (last, three) = history(stage, 3)
        between = Painted(sku="a")
        painted = stage.envelope(between, seq=two.seq, prev=two.prev)
        await stage.send((last, three), (between, painted), (first, one))
        await until(lambda: len(seen) >= 2)
        assert seen == [0, 2]

    run(tmp_path, test)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_every_order_of_three_arrives_as_one(tmp_path: Path, order: tuple[int, ...]) -> None:
    seen: list[int] = []

    async def test(stage: Stage) -> None:
        await stage.run(ordered(seen))
        sent = history(stage, 3)
        await stage.send(*[sent[n] for n in order])
        await until(lambda: len(seen) >= 3)
        assert seen == [0, 1, 2]

    run(tmp_path, test)
