"""Sagas that run: on both databases, through queues, over restarts and bugs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, MetaData, Table, Text, insert, select

from eventplat.errors import Rejected, TimedOut
from eventplat.messages.envelope import DONE, REJECTED
from eventplat.messages.message import Command, Key
from eventplat.sagas.saga import Saga
from eventplat.sagas.store import saga as sagas
from eventplat.sagas.store import saga_step, timer
from eventplat.service.context import Context
from eventplat.service.runner import Runner
from eventplat.service.service import Service
from tests.conformance.stage import Stage, until

tables = MetaData()
local = Table("local", tables, Column("what", Text, nullable=False))


class Place(Command[str], name="orders.place"):
    order_id: Key[str]


class Note(Command[None], name="orders.note"):
    order_id: Key[str]
    what: str


class Do(Command[str], name="stock.do"):
    order_id: Key[str]
    what: str


class Undo(Command[None], name="stock.undo"):
    order_id: Key[str]
    what: str


class Stock:
    """The other service: keeps the order in which it was asked; refuses and holds what a test names."""

    def __init__(self, refuses: str = "", holds: str = "") -> None:
        self.begun: list[str] = []
        self.calls: list[str] = []
        self.refuses, self.holds, self.go_on = refuses, holds, asyncio.Event()
        self.service = Service("stock")
        self.service.handles(Do)(self.do)
        self.service.handles(Undo)(self.undo)

    async def do(self, command: Do, ctx: Context) -> str:
        self.begun.append(command.what)
        if command.what == self.holds:
            await self.go_on.wait()
        self.calls.append(command.what)
        if command.what == self.refuses:
            raise Rejected("refused", what=command.what)
        return f"did {command.what}"

    async def undo(self, command: Undo, ctx: Context) -> None:
        self.calls.append(f"undo {command.what}")


def orders(function: Callable[[Place, Saga], Awaitable[str]], note: Callable[[Note], None] = lambda _: None) -> Service[None]:
    service = Service("orders", tables=tables)

    @service.handles(Note)
    async def noted(command: Note, ctx: Context) -> None:
        await ctx.db.execute(insert(local).values(what=command.what))
        note(command)

    service.saga(Place, id="order_id")(function)
    return service


def do(saga: Saga, what: str, **more: Any) -> Any:
    return saga.call(Do(order_id="1", what=what), undo=Undo(order_id="1", what=what), **more)


@pytest.fixture(params=["sqlite", "postgresql"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    if request.param == "sqlite":
        return Stage(tmp_path, None)
    from tests.servers import fresh_database  # noqa: PLC0415 - starts a server, only when a test needs it

    return Stage(tmp_path, fresh_database())


def run(stage: Stage, test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with stage:
            await test()

    asyncio.run(whole())


async def state_of(stage: Stage, runner: Runner, id_: str = "1") -> Any:
    found = await stage.rows(runner, select(sagas).where(sagas.c.id == id_))
    return found[0] if found else None


async def reaches(stage: Stage, runner: Runner, state: str, id_: str = "1") -> Any:
    async def is_there() -> Any:
        row = await state_of(stage, runner, id_)
        return row if row is not None and row.state == state else None

    return await until(is_there, f"saga {id_} in {state}")


async def three(order: Place, saga: Saga) -> str:
    first = await do(saga, "a")
    second = await do(saga, "b")
    await do(saga, "c")
    return f"{first}, {second}"


def test_a_saga_that_comes_through_answers_and_leaves_no_timer(stage: Stage) -> None:
    async def test() -> None:
        stock = Stock()
        await stage.run(stock.service)
        runner = await stage.run(orders(three))
        answer = await stage.ask(Place(order_id="1"))
        assert (answer.type, json.loads(answer.body)) == (DONE, "did a, did b")
        again = await stage.ask(Place(order_id="1"), id_=answer.causation)
        assert (again.type, again.body) == (DONE, answer.body)
        assert stock.calls == ["a", "b", "c"]
        assert await stage.rows(runner, select(timer.c.id)) == []

    run(stage, test)


def test_a_second_command_for_the_same_saga_is_refused(stage: Stage) -> None:
    async def test() -> None:
        stock = Stock()
        await stage.run(stock.service)
        await stage.run(orders(three))
        await stage.ask(Place(order_id="1"))
        other = await stage.ask(Place(order_id="1"))
        assert (other.type, json.loads(other.body)["reason"]) == (REJECTED, "already_started")
        assert stock.calls == ["a", "b", "c"]

    run(stage, test)


def test_a_refusal_undoes_what_is_done_last_first_and_is_the_answer(stage: Stage) -> None:
    async def test() -> None:
        stock = Stock(refuses="c")
        await stage.run(stock.service)
        runner = await stage.run(orders(three))
        answer = await stage.ask(Place(order_id="1"))
        assert (answer.type, json.loads(answer.body)["reason"]) == (REJECTED, "refused")
        assert stock.calls == ["a", "b", "c", "undo b", "undo a"]
        assert (await state_of(stage, runner)).state == "compensated"

    run(stage, test)


def test_an_answer_after_the_timeout_changes_nothing(stage: Stage) -> None:
    async def patient(order: Place, saga: Saga) -> str:
        try:
            return str(await do(saga, "slow", timeout=0.1))
        except TimedOut:
            return str(await do(saga, "instead"))

    async def test() -> None:
        stock = Stock(holds="slow")
        await stage.run(stock.service)
        runner = await stage.run(orders(patient))
        envelope = stage.envelope(Place(order_id="1"))
        await stage.send((Place(order_id="1"), envelope))

        async def outcomes() -> list[str]:
            return [row.outcome_type for row in await stage.rows(runner, select(saga_step.c.outcome_type)) if row.outcome_type]

        await until(outcomes)
        assert await outcomes() == ["timed_out"]
        stock.go_on.set()                       # the late answer, and the undo that waited for its command
        answer = await stage.answer_to(envelope.id)
        assert json.loads(answer.body) == "did instead"
        assert stock.calls.index("slow") < stock.calls.index("undo slow")
        assert sorted(stock.calls) == ["instead", "slow", "undo slow"]
        assert sorted(await outcomes()) == ["done", "done", "timed_out"]

    run(stage, test)


def test_another_instance_goes_on_where_a_stopped_one_left_off(stage: Stage) -> None:
    async def test() -> None:
        stock = Stock(holds="b")
        await stage.run(stock.service)
        first = await stage.run(orders(three))
        envelope = stage.envelope(Place(order_id="1"))
        await stage.send((Place(order_id="1"), envelope))
        await until(lambda: "b" in stock.begun)
        await stage.stop(first)
        stock.go_on.set()
        await until(lambda: "b" in stock.calls)
        assert stage.answers[envelope.id] == []
        await stage.run(orders(three))
        assert (await stage.answer_to(envelope.id)).type == DONE
        assert stock.calls == ["a", "b", "c"]

    run(stage, test)


def test_a_bug_undoes_nothing_and_a_fixed_function_goes_on_from_the_same_history(stage: Stage) -> None:
    async def broken(order: Place, saga: Saga) -> str:
        await do(saga, "a")
        raise ZeroDivisionError("a bug")

    async def test() -> None:
        stock = Stock()
        await stage.run(stock.service)
        first = await stage.run(orders(broken))
        envelope = stage.envelope(Place(order_id="1"))
        await stage.send((Place(order_id="1"), envelope))
        row = await reaches(stage, first, "operator")
        assert "ZeroDivisionError" in row.problem
        assert stock.calls == ["a"]
        history = await stage.rows(first, select(saga_step.c.path, saga_step.c.command_id))
        await stage.stop(first)
        fixed = await stage.run(orders(three))
        assert (await stage.answer_to(envelope.id)).type == DONE
        assert stock.calls == ["a", "b", "c"]
        assert set(history) <= set(await stage.rows(fixed, select(saga_step.c.path, saga_step.c.command_id)))

    run(stage, test)


def test_a_handler_of_the_same_service_runs_in_the_sagas_transaction_and_its_no_is_undone(stage: Stage) -> None:
    def refuse(command: Note) -> None:
        if command.what == "bad":
            raise Rejected("refused")

    async def with_notes(order: Place, saga: Saga) -> str:
        await saga.call(Note(order_id="1", what="good"))
        try:
            await saga.call(Note(order_id="1", what="bad"))
        except Rejected as rejected:
            return rejected.reason
        return "never"

    async def test() -> None:
        runner = await stage.run(orders(with_notes, refuse))
        answer = await stage.ask(Place(order_id="1"))
        assert (answer.type, json.loads(answer.body)) == (DONE, "refused")
        assert [row.what for row in await stage.rows(runner, select(local.c.what))] == ["good"]

    run(stage, test)


def test_a_saga_sleeps_over_a_restart(stage: Stage) -> None:
    async def sleepy(order: Place, saga: Saga) -> str:
        await saga.sleep(0.2)
        return str(await do(saga, "after"))

    async def test() -> None:
        stock = Stock()
        await stage.run(stock.service)
        first = await stage.run(orders(sleepy))
        envelope = stage.envelope(Place(order_id="1"))
        await stage.send((Place(order_id="1"), envelope))
        await reaches(stage, first, "running")
        await stage.stop(first)
        await stage.run(orders(sleepy))
        assert (await stage.answer_to(envelope.id)).type == DONE
        assert stock.calls == ["after"]

    run(stage, test)
