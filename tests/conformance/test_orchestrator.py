"""Sagas that run: on both databases, through queues, over restarts and bugs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, MetaData, Table, Text, delete, insert, select, update

from eventplat.errors import DatabaseUnavailable, Rejected, TimedOut
from eventplat.messages.envelope import DONE, REJECTED, Envelope
from eventplat.messages.message import Command, Key, Query
from eventplat.retry import Retry
from eventplat.sagas import execution, orchestrator, store
from eventplat.sagas.saga import Saga
from eventplat.sagas.store import saga as sagas
from eventplat.sagas.store import saga_step, timer
from eventplat.service.context import Context
from eventplat.service.dead_letters import DeadLetters
from eventplat.service.runner import Runner
from eventplat.service.service import Service
from eventplat.storage.tables import now_us
from eventplat.transactions.answers import Answers
from eventplat.transactions.outbox_tables import outbox
from tests.conformance.stage import Stage, until

tables = MetaData()
local = Table("local", tables, Column("what", Text, nullable=False))


class Place(Command[str], name="orders.place"):
    order_id: Key[str]


class Return(Command[str], name="orders.return"):
    order_id: Key[str]


class Read(Command[None], name="orders.read"):
    order_id: Key[str]


class Look(Query[str], name="stock.look"):
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
    """The other service: keeps the order in which it was asked; refuses, holds and breaks at what a test names."""

    def __init__(self, refuses: str = "", holds: str = "", breaks: str = "") -> None:
        self.begun: list[str] = []
        self.calls: list[str] = []
        self.looks: list[Envelope] = []
        self.refuses, self.holds, self.breaks, self.go_on = refuses, holds, breaks, asyncio.Event()
        self.service = Service("stock", retry=Retry(attempts=1))
        self.service.handles(Do)(self.do)
        self.service.handles(Undo)(self.undo)
        self.service.handles(Look)(self.look)

    async def do(self, command: Do, ctx: Context) -> str:
        self.begun.append(command.what)
        if command.what == self.holds:
            await self.go_on.wait()
        self.calls.append(command.what)
        self._break_at(command.what)
        if command.what == self.refuses:
            raise Rejected("refused", what=command.what)
        return f"did {command.what}"

    async def undo(self, command: Undo, ctx: Context) -> None:
        self._break_at(f"undo {command.what}")
        self.calls.append(f"undo {command.what}")

    async def look(self, query: Look, ctx: Context) -> str:
        self.looks.append(ctx.envelope)
        self._break_at("look")
        return "seen"

    def _break_at(self, what: str) -> None:
        if what == self.breaks:
            raise RuntimeError(f"broken at {what}")


Function = Callable[[Any, Saga], Awaitable[str]]


def orders(
    function: Function, note: Callable[[Note], None] = lambda _: None, *, returns: Function | None = None
) -> Service[None]:
    service = Service("orders", tables=tables)

    @service.handles(Note)
    async def noted(command: Note, ctx: Context) -> None:
        await ctx.db.execute(insert(local).values(what=command.what))
        note(command)

    service.saga(Place, id="order_id")(function)
    if returns is not None:
        service.saga(Return, id="order_id")(returns)
    return service


def do(saga: Saga, what: str, **more: Any) -> Any:
    return saga.call(Do(order_id="1", what=what), undo=Undo(order_id="1", what=what), **more)


async def start(stage: Stage, *ids: str, kind: type[Place | Return] = Place) -> Envelope:
    """Ask for sagas of these ids; the last one's envelope."""
    asked = [(message, stage.envelope(message)) for message in (kind(order_id=id_) for id_ in ids or ("1",))]
    await stage.send(*asked)
    return asked[-1][1]


def operator(runner: Runner) -> orchestrator.Orchestrator:
    assert runner.sagas is not None
    return runner.sagas


async def replay_dead_letter(stage: Stage, runner: Runner) -> None:
    """What an operator does with the one dead letter."""
    await until_sent(stage, runner)
    done = await DeadLetters(runner.out.database, stage.settings, stage.clock).replay()
    assert (done.count, done.refused) == (1, {})


async def until_sent(stage: Stage, *runners: Runner) -> None:
    async def is_sent() -> bool:
        return not any([await stage.rows(runner, select(outbox.c.id)) for runner in runners])

    await until(is_sent, "an empty outbox")


async def pass_the_deadline(stage: Stage, runner: Runner) -> None:
    """Let the deadline of every saga be long past."""
    await stage.rows(runner, update(sagas).values(deadline_us=1))
    await stage.rows(runner, update(timer).where(timer.c.kind == "deadline").values(due_us=1))


async def is_overdue(stage: Stage, runner: Runner) -> Any:
    row = await state_of(stage, runner)
    return row if row.state == "operator" and row.problem.startswith(orchestrator.OVERDUE) else None


async def step_timers(stage: Stage, runner: Runner) -> Sequence[str]:
    return [row.id for row in await stage.rows(runner, select(timer.c.id).where(timer.c.kind == "step"))]


@pytest.fixture(params=["sqlite", "postgresql"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    return Stage(tmp_path, None) if request.param == "sqlite" else on_postgresql(tmp_path)


def on_postgresql(folder: Path) -> Stage:
    from tests.servers import fresh_database  # noqa: PLC0415 - starts a server, only when a test needs it

    return Stage(folder, fresh_database())


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


# --- timers -----------------------------------------------------------------------------------------


async def notes_after_a_while(order: Place, saga: Saga) -> str:
    await saga.sleep(0.1)
    await saga.call(Note(order_id=order.order_id, what=order.order_id))
    return "noted"


async def notes_much_later(order: Place, saga: Saga) -> str:
    await saga.sleep(2.0)  # an instance has stopped by then
    await saga.call(Note(order_id=order.order_id, what=order.order_id))
    return "noted"


def break_at_bad(command: Note) -> None:
    if command.what == "bad":
        raise ValueError("a bug of a handler")


def test_a_saga_whose_handler_fails_after_a_timer_stands_still_alone(stage: Stage) -> None:
    async def test() -> None:
        runner = await stage.run(orders(notes_after_a_while, break_at_bad))
        await start(stage, "bad", "good", "better")
        await reaches(stage, runner, "completed", "good")
        await reaches(stage, runner, "completed", "better")
        bad = await reaches(stage, runner, "operator", "bad")
        assert "a bug of a handler" in bad.problem
        assert await step_timers(stage, runner) == []  # it fired: the sleep is over

    run(stage, test)


def test_a_timer_whose_turn_the_database_failed_comes_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    fired: list[object] = []
    come = orchestrator.Orchestrator._time_has_come

    async def fail_once(self: orchestrator.Orchestrator, *args: Any) -> None:
        fired.append(args)
        if len(fired) == 1:
            raise DatabaseUnavailable("away")
        await come(self, *args)

    monkeypatch.setattr(orchestrator.Orchestrator, "_time_has_come", fail_once)

    async def test() -> None:
        await stage.run(orders(notes_after_a_while))
        asked = await start(stage)
        assert (await stage.answer_to(asked.id)).type == DONE
        assert len(fired) == 2

    run(stage, test)


def test_a_saga_that_stood_still_after_a_timer_goes_on_with_a_fixed_handler(stage: Stage) -> None:
    async def test() -> None:
        first = await stage.run(orders(notes_after_a_while, break_at_bad))
        asked = await start(stage, "bad")
        await reaches(stage, first, "operator", "bad")
        await stage.stop(first)
        runner = await stage.run(orders(notes_after_a_while))
        assert (await stage.answer_to(asked.id)).type == DONE
        assert [row.what for row in await stage.rows(runner, select(local.c.what))] == ["bad"]

    run(stage, test)


def test_timers_of_sagas_that_a_release_does_not_know_wait_for_one_that_does(stage: Stage) -> None:
    async def test() -> None:
        newer = await stage.run(orders(notes_after_a_while, returns=notes_much_later))
        unknown = await start(stage, "1", kind=Return)
        await until(lambda: step_timers(stage, newer))
        await stage.stop(newer)
        older = await stage.run(orders(notes_after_a_while))
        is_due = select(timer.c.id).where(timer.c.kind == "step", timer.c.due_us <= now_us())
        await until(lambda: stage.rows(older, is_due))
        known = await start(stage)
        assert (await stage.answer_to(known.id)).type == DONE
        assert len(await step_timers(stage, older)) == 1
        await stage.run(orders(notes_after_a_while, returns=notes_much_later))
        assert (await stage.answer_to(unknown.id)).type == DONE

    run(stage, test)


def test_a_timer_passes_by_a_saga_that_a_reply_holds_and_both_get_through(tmp_path: Path) -> None:
    stage = on_postgresql(tmp_path)

    async def test() -> None:
        runner = await stage.run(orders(notes_after_a_while))
        held = await start(stage, "held")
        await until(lambda: step_timers(stage, runner))
        async with runner.out.database.transaction() as connection:  # as a reply does: the saga first, then its timers
            assert await store.lock(connection, held.id) is not None
            other = await start(stage, "other")
            assert (await stage.answer_to(other.id)).type == DONE
            still = await connection.execute(store.timer.delete().where(timer.c.subject == held.id, timer.c.kind == "deadline"))
            assert still.rowcount == 1
        assert (await stage.answer_to(held.id)).type == DONE

    run(stage, test)


# --- sent again -------------------------------------------------------------------------------------


async def paid(order: Place, saga: Saga) -> str:
    saga.pivot()
    return str(await do(saga, "a", timeout=0.2))


async def until_sent_again(stage: Stage, runner: Runner, times: int = 2) -> None:
    """Until the one step that waits has been sent again so often: each time it gets a new timer."""
    seen: set[str] = set()

    async def is_repeated() -> bool:
        seen.update(await step_timers(stage, runner))
        return len(seen) > times

    await until(is_repeated, "a step that is sent again")


def test_a_call_past_the_pivot_is_sent_again_while_its_first_row_still_waits(stage: Stage) -> None:
    async def test() -> None:
        runner = await stage.run(orders(paid))
        asked = await start(stage)
        await until_sent_again(stage, runner)
        assert len(await stage.rows(runner, select(outbox.c.id))) == 1  # nobody has bound the queue
        stock = Stock()
        await stage.run(stock.service)
        assert (await stage.answer_to(asked.id)).type == DONE
        assert stock.calls == ["a"]

    run(stage, test)


def test_an_undo_is_sent_again_while_its_first_row_still_waits(stage: Stage) -> None:
    async def impatient(order: Place, saga: Saga) -> str:
        return str(await do(saga, "a", timeout=0.1))

    async def test() -> None:
        runner = await stage.run(orders(impatient))
        asked = await start(stage)
        await reaches(stage, runner, "compensating")
        await until_sent_again(stage, runner)
        assert len(await stage.rows(runner, select(outbox.c.id))) == 2
        stock = Stock()
        await stage.run(stock.service)
        answer = await stage.answer_to(asked.id)
        assert (answer.type, json.loads(answer.body)["reason"]) == (REJECTED, "timed_out")
        assert stock.calls in ([], ["a", "undo a"])  # a tombstone, or done and undone

    run(stage, test)


# --- questions --------------------------------------------------------------------------------------


async def looks(order: Place, saga: Saga) -> str:
    await do(saga, "a")
    return await saga.call(Look(order_id="1"), timeout=9)


def test_a_question_whose_answer_was_lost_is_asked_again_and_nothing_is_undone(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[object] = []

    def send(self: Answers, letter: Any) -> None:
        if letter.routing_key.endswith("orders.replies") and not lost:
            lost.append(letter)
        else:
            sent(self, letter)

    sent = Answers.send
    monkeypatch.setattr(Answers, "send", send)
    monkeypatch.setattr(execution, "ASK_AGAIN_S", 0.1)

    async def test() -> None:
        stock = Stock()
        await stage.run(stock.service)
        runner = await stage.run(orders(looks))
        asked = await start(stage)
        answer = await stage.answer_to(asked.id)
        assert (answer.type, json.loads(answer.body)) == (DONE, "seen")
        assert len(lost) == 1
        assert len(stock.looks) >= 2
        assert {look.id for look in stock.looks} == {stock.looks[0].id}
        assert stock.calls == ["a"]
        assert await stage.rows(runner, select(timer.c.id)) == []

    run(stage, test)


def test_a_question_expires_with_its_step(stage: Stage) -> None:
    async def test() -> None:
        stock = Stock()
        await stage.run(stock.service)
        await stage.run(orders(looks))
        await stage.answer_to((await start(stage)).id)
        (look,) = stock.looks
        assert look.deadline_ms is not None
        assert 0 < look.deadline_ms - stage.clock.time_us() // 1_000 <= 9_000

    run(stage, test)


def test_a_question_past_the_pivot_that_failed_is_asked_again_when_the_operator_resumes(stage: Stage) -> None:
    async def looks_last(order: Place, saga: Saga) -> str:
        saga.pivot()
        return await saga.call(Look(order_id="1"))

    async def test() -> None:
        stock = Stock(breaks="look")
        await stage.run(stock.service)
        runner = await stage.run(orders(looks_last))
        asked = await start(stage)
        assert "broken at look" in (await reaches(stage, runner, "operator")).problem
        stock.breaks = ""
        assert await operator(runner).resume("orders.place", "1")
        assert json.loads((await stage.answer_to(asked.id)).body) == "seen"

    run(stage, test)


# --- what waits for the operator --------------------------------------------------------------------


def test_a_call_past_the_pivot_that_failed_goes_on_once_its_dead_letter_is_replayed(stage: Stage) -> None:
    async def patient(order: Place, saga: Saga) -> str:
        saga.pivot()
        return str(await do(saga, "a"))

    async def test() -> None:
        stock = Stock(breaks="a")
        shelves = await stage.run(stock.service)
        runner = await stage.run(orders(patient))
        asked = await start(stage)
        assert "broken at a" in (await reaches(stage, runner, "operator")).problem
        stock.breaks = ""
        await replay_dead_letter(stage, shelves)
        assert (await stage.answer_to(asked.id)).type == DONE
        row = await reaches(stage, runner, "completed")
        assert row.problem is None
        assert stock.calls == ["a", "a"]

    run(stage, test)


def test_an_undo_that_failed_goes_on_once_its_dead_letter_is_replayed(stage: Stage) -> None:
    async def test() -> None:
        stock = Stock(refuses="c", breaks="undo b")
        shelves = await stage.run(stock.service)
        runner = await stage.run(orders(three))
        asked = await start(stage)
        assert "broken at undo b" in (await reaches(stage, runner, "operator")).problem
        assert stock.calls == ["a", "b", "c"]
        stock.breaks = ""
        await replay_dead_letter(stage, shelves)
        assert (await stage.answer_to(asked.id)).type == REJECTED
        assert stock.calls == ["a", "b", "c", "undo b", "undo a"]
        assert (await state_of(stage, runner)).state == "compensated"

    run(stage, test)


def test_a_command_that_its_saga_has_gone_on_without_is_not_replayed(stage: Stage) -> None:
    async def test() -> None:
        stock = Stock(breaks="b")
        shelves = await stage.run(stock.service)
        runner = await stage.run(orders(three))
        letters = DeadLetters(shelves.out.database, stage.settings, stage.clock)
        asked = await start(stage)
        assert (await stage.answer_to(asked.id)).type == REJECTED
        await until_sent(stage, runner, shelves)
        stock.breaks = ""

        ended = await letters.replay()
        await stage.rows(runner, update(sagas).values(ended_us=None, state="operator"))
        elsewhere = await letters.replay()
        await stage.rows(runner, delete(saga_step))
        forgotten = await letters.replay()

        assert [done.count for done in (ended, elsewhere, forgotten)] == [0, 0, 0]
        said = [why for done in (ended, elsewhere, forgotten) for why in done.refused.values()]
        assert "'1' is compensated" in said[0]
        assert "was told that it failed and went on" in said[1]
        assert "no step of a saga there has sent it" in said[2]
        assert (await letters.discard()).count == 1
        assert stock.calls == ["a", "b", "undo a"]

    run(stage, test)


def test_a_saga_past_its_deadline_waits_with_its_reason_over_answers_and_restarts_until_it_is_resumed(stage: Stage) -> None:
    async def test() -> None:
        stock = Stock(holds="b")
        await stage.run(stock.service)
        first = await stage.run(orders(three))
        asked = await start(stage)
        await until(lambda: "b" in stock.begun)
        await pass_the_deadline(stage, first)
        assert (await until(lambda: is_overdue(stage, first))).problem == orchestrator.OVERDUE
        stock.go_on.set()

        async def is_answered() -> bool:
            return len(await stage.rows(first, select(saga_step.c.path).where(saga_step.c.state == "settled"))) == 2

        await until(is_answered, "the answer to b, recorded")
        await stage.stop(first)
        second = await stage.run(orders(three))
        other = await stage.ask(Place(order_id="2"))  # in time; and what waits at the start has been looked at
        assert other.type == DONE
        row = await state_of(stage, second)
        assert (row.state, row.problem) == ("operator", orchestrator.OVERDUE)
        assert stock.calls == ["a", "b", "a", "b", "c"]
        assert await operator(second).resume("orders.place", "1")
        assert (await stage.answer_to(asked.id)).type == DONE
        assert stock.calls == ["a", "b", "a", "b", "c", "c"]

    run(stage, test)


def test_a_bug_and_a_deadline_are_both_named_to_the_operator(stage: Stage) -> None:
    async def broken(order: Place, saga: Saga) -> str:
        raise ZeroDivisionError("a bug")

    async def test() -> None:
        runner = await stage.run(orders(broken))
        await start(stage)
        await reaches(stage, runner, "operator")
        await pass_the_deadline(stage, runner)
        row = await until(lambda: is_overdue(stage, runner))
        assert "ZeroDivisionError" in row.problem

    run(stage, test)


def test_a_database_that_fails_at_the_start_neither_fails_it_nor_leaves_a_saga_waiting(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(order: Place, saga: Saga) -> str:
        raise ZeroDivisionError("a bug")

    async def test() -> None:
        first = await stage.run(orders(broken))
        asked = await start(stage)
        await reaches(stage, first, "operator")
        await stage.stop(first)
        looked: list[object] = []
        look = store.waiting_for_operator

        async def fail_once(*args: Any) -> list[str]:
            looked.append(args)
            if len(looked) == 1:
                raise DatabaseUnavailable("away")
            return await look(*args)

        monkeypatch.setattr(store, "waiting_for_operator", fail_once)
        await stage.run(Stock().service)
        await stage.run(orders(three))
        assert (await stage.answer_to(asked.id)).type == DONE
        assert len(looked) >= 2

    run(stage, test)


def test_a_cancelled_saga_hears_its_open_step_out_and_undoes_what_is_done(stage: Stage) -> None:
    async def test() -> None:
        stock = Stock(holds="b")
        await stage.run(stock.service)
        runner = await stage.run(orders(three))
        asked = await start(stage)
        await until(lambda: "b" in stock.begun)
        assert await operator(runner).cancel("orders.place", "1")
        assert not await operator(runner).cancel("orders.place", "1")
        assert not await operator(runner).cancel("orders.place", "no such saga")
        stock.go_on.set()
        answer = await stage.answer_to(asked.id)
        assert (answer.type, json.loads(answer.body)["reason"]) == (REJECTED, "cancelled")
        assert stock.calls == ["a", "b", "undo b", "undo a"]
        row = await state_of(stage, runner)
        assert row.state == "compensated"
        assert row.cancelled_us > 0

    run(stage, test)


def test_a_saga_past_its_pivot_cannot_be_cancelled(stage: Stage) -> None:
    async def test() -> None:
        runner = await stage.run(orders(paid))
        asked = await start(stage)
        await reaches(stage, runner, "running")
        assert not await operator(runner).cancel("orders.place", "1")
        stock = Stock()
        await stage.run(stock.service)
        assert (await stage.answer_to(asked.id)).type == DONE

    run(stage, test)


def test_a_saga_that_stands_on_a_bug_or_past_its_deadline_can_be_cancelled(stage: Stage) -> None:
    async def broken(order: Place, saga: Saga) -> str:
        await do(saga, "a")
        raise ZeroDivisionError("a bug")

    async def test() -> None:
        stock = Stock()
        await stage.run(stock.service)
        runner = await stage.run(orders(broken))
        asked = await start(stage)
        await reaches(stage, runner, "operator")
        await pass_the_deadline(stage, runner)
        await until(lambda: is_overdue(stage, runner))
        assert await operator(runner).cancel("orders.place", "1")
        assert json.loads((await stage.answer_to(asked.id)).body)["reason"] == "cancelled"
        assert stock.calls == ["a", "undo a"]

    run(stage, test)


# --- which saga it is -------------------------------------------------------------------------------


def test_sagas_of_two_names_may_go_by_one_id(stage: Stage) -> None:
    async def back(command: Return, saga: Saga) -> str:
        await do(saga, "back")
        return f"back {saga.id}"

    async def test() -> None:
        stock = Stock()
        await stage.run(stock.service)
        service, seen = orders(three, returns=back), []

        @service.handles(Read)
        async def read(query: Read, ctx: Context) -> None:
            for kind in (None, Place, Return):
                view = await ctx.saga("1", started_by=kind)
                assert view is not None
                seen.append((view.id, view.name, [step.type for step in view.steps], view.status))
            assert await ctx.saga("2") is None

        runner = await stage.run(service)
        await stage.ask(Place(order_id="1"))
        answer = await stage.ask(Return(order_id="1"))
        assert json.loads(answer.body) == "back 1"
        assert (await stage.ask(Return(order_id="1"))).type == REJECTED
        assert stock.calls == ["a", "b", "c", "back"]
        ids = [row.command_id for row in await stage.rows(runner, select(saga_step.c.command_id))]
        assert len(set(ids)) == len(ids) == 4
        assert (await stage.ask(Read(order_id="1"))).type == DONE
        placed = ("1", "orders.place", ["stock.do.v1"] * 3, "completed")
        assert seen == [placed, placed, ("1", "orders.return", ["stock.do.v1"], "completed")]

    run(stage, test)


def test_an_answer_that_reaches_an_instance_without_the_saga_is_kept_for_one_that_has_it(stage: Stage) -> None:
    async def test() -> None:
        stock = Stock(holds="b")
        await stage.run(stock.service)
        newer = await stage.run(orders(three, returns=three))
        asked = await start(stage, "1", kind=Return)
        await until(lambda: "b" in stock.begun)
        await stage.stop(newer)
        older = await stage.run(orders(three))
        stock.go_on.set()

        async def is_recorded() -> bool:
            return len(await stage.rows(older, select(saga_step.c.path).where(saga_step.c.state == "settled"))) == 2

        await until(is_recorded, "the answer to b")
        assert (await state_of(stage, older)).state == "running"
        assert stock.calls == ["a", "b"]
        await stage.run(orders(three, returns=three))  # beside the older one
        assert json.loads((await stage.answer_to(asked.id)).body) == "did a, did b"
        assert stock.calls == ["a", "b", "c"]

    run(stage, test)
