"""How a handler is called: threads and sessions, middleware, state, scopes, and the order of a key."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from eventplat.errors import Rejected
from eventplat.messages.codec import BODY_BYTES_MAX
from eventplat.messages.envelope import DONE, FAILED, REJECTED
from eventplat.messages.message import Command, Event, Key, Message
from eventplat.observability.logs import configure
from eventplat.retry import Retry
from eventplat.security.grant import GrantSigner, GrantVerifier
from eventplat.security.keys import ensure_keys, new_grant_key
from eventplat.security.principal import Principal
from eventplat.service.context import Context, SyncContext
from eventplat.service.service import Service
from eventplat.settings import load
from eventplat.transactions.outbox_tables import event_log, outbox
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


class Tell(Command[str], name="stock.tell"):
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


def test_a_def_handler_takes_back_what_waits_once(tmp_path: Path) -> None:
    stock = Service("stock")
    waiting: list[str] = []
    taken: list[bool] = []

    @stock.handles(Fill)
    def fill(command: Fill, ctx: SyncContext) -> int:
        taken.extend(ctx.cancel(id_) for id_ in waiting * 2)
        waiting.append(ctx.publish(Moved(sku=command.sku), after=3_600))
        return 1

    async def test(stage: Stage) -> None:
        runner = await stage.run(stock)
        for _ in range(2):
            assert (await stage.ask(Fill(sku="a", n=1))).type == DONE
        assert taken == [True, False]
        assert [row.id for row in await stage.rows(runner, select(outbox.c.id))] == waiting[1:]

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


def test_middleware_runs_around_a_def_handler_too(tmp_path: Path) -> None:
    seen: list[str] = []

    async def around(message: Message, ctx: Context[Any], call_next: Any) -> object:
        seen.append("in")
        return await call_next(message, ctx)

    stock = threaded(seen)
    stock.middleware = (around,)

    async def test(stage: Stage) -> None:
        await stage.run(stock)
        assert (await stage.ask(Fill(sku="a", n=3))).body == b"3"
        assert (len(seen), seen[0]) == (2, "in")

    run(tmp_path, test)


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_handler_that_lets_a_cancellation_out_has_failed_and_the_others_go_on(tmp_path: Path) -> None:
    stock = Service("stock", retry=Retry(attempts=2, first=0.01))

    @stock.handles(Fill)
    async def fill(command: Fill, ctx: Context) -> int:
        if command.n < 0:
            task = asyncio.create_task(asyncio.sleep(60))
            task.cancel()
            await task
        return command.n

    async def test(stage: Stage) -> None:
        await stage.run(stock)
        answers = await asyncio.gather(*(stage.ask(Fill(sku="a", n=n)) for n in [-1] * 8 + list(range(8))))
        assert [answer.type for answer in answers] == [FAILED] * 8 + [DONE] * 8
        assert json.loads(answers[0].body)["code"] == "EP713"

    run(tmp_path, test, prefetch=4)


def test_whatever_a_handler_logs_names_its_message_and_conversation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stock = Service("stock", retry=Retry(attempts=1))

    @stock.handles(Fill)
    async def fill(command: Fill, ctx: Context) -> int:
        logging.getLogger("a.library").warning("by a library")
        structlog.get_logger("ours").warning("by structlog")
        ctx.log.warning("by ctx")
        raise RuntimeError("broken")

    async def test(stage: Stage) -> None:
        configure(stage.settings)
        await stage.run(stock)
        answer = await stage.ask(Fill(sku="a", n=1))
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        said = [line for line in lines if line["event"].startswith(("by ", "stock.fill gives up"))]
        assert len(said) == 4
        assert {line["message_id"] for line in said} == {answer.causation}
        assert {line["correlation_id"] for line in said} == {answer.correlation_id}
        assert {line["handler"] for line in said} == {"stock.fill"}

    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        run(tmp_path, test, log_format="json")
    finally:
        root.handlers[:], level = before
        root.setLevel(level)
        structlog.reset_defaults()


def test_a_reply_over_the_limit_is_a_failure_that_says_so(tmp_path: Path) -> None:
    stock = Service("stock", tables=Base.metadata)

    @stock.handles(Tell)
    async def tell(command: Tell, ctx: Context) -> str:
        ctx.db.add(Shelf(sku="a", left=1))
        return "x" * command.n

    async def test(stage: Stage) -> None:
        runner = await stage.run(stock)
        answer = await stage.ask(Tell(n=BODY_BYTES_MAX))
        assert (answer.type, json.loads(answer.body)["code"]) == (FAILED, "EP103")
        assert await stage.rows(runner, select(Shelf.sku)) == []
        assert (await stage.ask(Tell(n=10))).type == DONE

    run(tmp_path, test)


def test_a_savepoint_that_is_taken_back_takes_its_messages_with_it(tmp_path: Path) -> None:
    stock, seen = Service("stock", tables=Base.metadata), list[int]()

    @stock.handles(Fill)
    async def fill(command: Fill, ctx: Context) -> int:
        ctx.publish(Moved(sku="a", n=1))
        for n, is_kept in ((2, False), (3, True)):
            savepoint = await ctx.db.begin_nested()
            ctx.publish(Moved(sku="a", n=n))
            await (savepoint.commit() if is_kept else savepoint.rollback())
        return 0

    @stock.on(Moved)
    async def moved(event: Moved, ctx: Context) -> None:
        seen.append(event.n)

    async def test(stage: Stage) -> None:
        runner = await stage.run(stock)
        await stage.ask(Fill(sku="a", n=1))
        await until(lambda: len(seen) >= 2)
        assert sorted(seen) == [1, 3]
        assert len(await stage.rows(runner, select(event_log.c.id))) == 2

    run(tmp_path, test)


def test_a_stop_finishes_what_was_delivered_and_counts_nothing(tmp_path: Path) -> None:
    stock, done = Service("stock"), list[int]()

    @stock.handles(Fill, concurrency=1)
    async def fill(command: Fill, ctx: Context) -> int:
        await asyncio.sleep(0.005)
        done.append(command.n)
        return command.n

    async def test(stage: Stage) -> None:
        runner = await stage.run(stock)
        commands = [Fill(sku="a", n=n) for n in range(40)]
        await stage.send(*((command, stage.envelope(command)) for command in commands))
        await until(lambda: done)
        for _ in range(4):
            await stage.stop(runner)
            runner = await stage.run(stock)
        await until(lambda: len(done) >= 40)
        assert sorted(done) == list(range(40))
        assert await stage.rows(runner, select(pending.c.message_id)) == []

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


def guarded() -> Service[None]:
    stock = Service("stock")

    @stock.handles(Fill, requires="stock:write")
    async def fill(command: Fill, ctx: Context) -> int:
        return command.n

    @stock.on(Moved)
    async def moved(event: Moved, ctx: Context) -> None: ...

    return stock


USERS = {"orders": "svc-orders", "mail": "svc-mail", "gateway": "svc-gateway"}


@pytest.mark.parametrize("user", ["svc-mail", "svc-stock", None])
def test_who_says_another_services_name_is_refused_and_its_undo_voids_nothing(tmp_path: Path, user: str | None) -> None:
    async def test(stage: Stage) -> None:
        runner = await stage.run(guarded())
        victim = stage.new_id()
        forged = await stage.ask(Fill(sku="a", n=1), app_id="orders", user_id=user)
        undo = await stage.ask(Fill(sku="a", n=1), app_id="orders", user_id=user, undoes=victim)
        assert [json.loads(answer.body)["reason"] for answer in (forged, undo)] == ["wrong_sender", "wrong_sender"]
        assert (await stage.ask(Fill(sku="a", n=1), id_=victim, app_id="orders", user_id="svc-orders")).type == DONE
        assert await stage.rows(runner, select(pending.c.message_id)) == []

    run(tmp_path, test, service_scopes={"orders": ("stock:write",)}, broker_users=USERS)


def test_the_gateways_hop_needs_a_grant_for_its_very_message(tmp_path: Path) -> None:
    private = new_grant_key()
    public = ensure_keys(load(data_dir=tmp_path, grant_key=private)).grant_public_pem
    assert public is not None
    signer, ann = GrantSigner(private), Principal("ann", frozenset({"stock:write"}))

    async def test(stage: Stage) -> None:
        await stage.run(guarded(), verifier=GrantVerifier(public))
        id_, other = stage.new_id(), stage.new_id()
        without = await stage.ask(Fill(sku="a", n=1), app_id="gateway")
        stolen = await stage.ask(Fill(sku="a", n=1), id_=other, app_id="gateway", grant=signer.sign(ann, id_, 1))
        assert [json.loads(answer.body)["reason"] for answer in (without, stolen)] == ["bad_grant", "bad_grant"]
        assert (await stage.ask(Fill(sku="a", n=1), id_=id_, app_id="gateway", grant=signer.sign(ann, id_, 1))).type == DONE
        assert (await stage.ask(Fill(sku="a", n=1), app_id="orders", grant=signer.sign(ann, id_, 1))).type == DONE

    run(tmp_path, test, service_scopes={"orders": ("stock:write",)})


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
