"""One delivery from bytes to ack, on both databases: once, whatever is sent twice, late, broken or undone."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Column, MetaData, Table, Text, select, update

from eventplat.broker.topology import COMMANDS, QUERIES
from eventplat.broker.transport import Outgoing
from eventplat.errors import Rejected
from eventplat.messages.codec import Properties, to_properties
from eventplat.messages.envelope import DONE, FAILED, REJECTED, RUNNING, VOID
from eventplat.messages.message import Command, Event, Key
from eventplat.retry import Retry
from eventplat.service.context import Context
from eventplat.service.runner import Runner
from eventplat.service.service import Service
from eventplat.transactions.inbox import inbox
from eventplat.transactions.outbox_tables import outbox
from eventplat.transactions.pending import pending
from tests.conformance.stage import Stage, until

tables = MetaData()
effect = Table("effect", tables, Column("message_id", Text, nullable=False), Column("what", Text, nullable=False))


class Add(Command[int], name="shop.add"):
    account: Key[str]
    n: int = 1


class Remove(Command[None], name="shop.remove"):
    account: Key[str]


class Added(Event, name="shop.added"):
    account: Key[str]


class Shop:
    """A service that notes what it did in its own table, and does what the test tells it before."""

    def __init__(self, retry: Retry = Retry(first=0.05), timeout: float = 60) -> None:  # noqa: B008 - frozen
        self.calls: list[str] = []
        self.before: Callable[[Add, Context], Awaitable[None]] | None = None
        self.service = Service("shop", tables=tables, retry=retry)
        self.service.handles(Add, timeout=timeout)(self.add)
        self.service.handles(Remove)(self.remove)

    async def add(self, command: Add, ctx: Context) -> int:
        self.calls.append(ctx.envelope.id)
        number = len(self.calls)
        await note(ctx, f"add {command.account}")
        if self.before is not None:
            await self.before(command, ctx)
        return number

    async def remove(self, command: Remove, ctx: Context) -> None:
        await note(ctx, f"remove {command.account}")


async def note(ctx: Context, what: str) -> None:
    await ctx.db.execute(effect.insert().values(message_id=ctx.envelope.id, what=what))


@pytest.fixture(params=["sqlite", "postgresql"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    if request.param == "sqlite":
        return Stage(tmp_path, None)
    from tests.servers import fresh_database  # noqa: PLC0415 - starts a server, only when a test needs it

    return Stage(tmp_path, fresh_database())


def run(stage: Stage, shop: Shop, test: Callable[[Runner], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with stage:
            await test(await stage.run(shop.service))

    asyncio.run(whole())


async def effects(stage: Stage, runner: Runner) -> list[str]:
    return [row.what for row in await stage.rows(runner, select(effect.c.what).order_by(effect.c.what))]


async def settled(stage: Stage, runner: Runner, id_: str) -> Any:
    rows = await stage.rows(runner, select(inbox).where(inbox.c.message_id == id_))
    return rows[0] if rows else None


async def waiting(stage: Stage, runner: Runner) -> list[Any]:
    return await stage.rows(runner, select(pending))


# --- copies ---------------------------------------------------------------------------------------


def test_twenty_copies_at_once_have_one_effect_and_one_answer(stage: Stage) -> None:
    shop = Shop()

    async def let_the_others_come(command: Add, ctx: Context) -> None:
        await asyncio.sleep(0.2)

    shop.before = let_the_others_come

    async def test(runner: Runner) -> None:
        command = Add(account="a")
        envelope = stage.envelope(command)
        await stage.send(*[(command, envelope)] * 20)
        await stage.answer_to(envelope.id, 20)
        answers = {(answer.id, answer.type, answer.body) for answer in stage.answers[envelope.id]}
        assert len(answers) == 1, answers
        assert answers.pop()[1] == DONE
        assert await effects(stage, runner) == ["add a"]
        assert len(await stage.rows(runner, select(inbox))) == 1

    run(stage, shop, test)


def test_copies_of_an_event_have_one_effect_in_each_of_its_handlers(stage: Stage) -> None:
    shop = Shop()

    async def first(event: Added, ctx: Context) -> None:
        await note(ctx, "first")

    async def second(event: Added, ctx: Context) -> None:
        await note(ctx, "second")

    shop.service.on(Added, name="first")(first)
    shop.service.on(Added, name="second")(second)

    async def test(runner: Runner) -> None:
        event = Added(account="a")
        await stage.send(*[(event, stage.envelope(event))] * 5)
        await until(lambda: quiet(runner))
        assert await effects(stage, runner) == ["first", "second"]

    run(stage, shop, test)


async def quiet(runner: Runner) -> bool:
    """Whether nothing of a service is queued or handled."""
    return not any((await runner.depths()).values()) and not runner.in_flight


def test_what_an_instance_had_not_committed_when_it_stopped_is_done_by_another(stage: Stage) -> None:
    shop, begun = Shop(), asyncio.Event()

    async def hang(command: Add, ctx: Context) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def test(runner: Runner) -> None:
        shop.before = hang
        command = Add(account="a")
        envelope = stage.envelope(command)
        await stage.send((command, envelope))
        await begun.wait()
        await stage.stop(runner)
        shop.before = None
        another = await stage.run(shop.service)
        assert (await stage.answer_to(envelope.id)).type == DONE
        assert await effects(stage, another) == ["add a"]

    stage.settings = stage.settings.model_copy(update={"drain_s": 0.05})
    run(stage, shop, test)


def test_effects_are_never_seen_without_their_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, shop = Stage(tmp_path, None), Shop()

    async def test(runner: Runner) -> None:
        seen: list[tuple[str, bytes]] = []
        leave = runner.out.transactions._leave

        def look(*args: Any) -> None:  # called by the commit itself; the other connection sees what is committed, now
            with closing(sqlite3.connect(tmp_path / "shop.db")) as other:
                seen.extend(other.execute("SELECT what, outcome FROM effect JOIN eventplat_inbox"))
            leave(*args)

        monkeypatch.setattr(runner.out.transactions, "_leave", look)
        answer = await stage.ask(Add(account="a"))
        assert seen == [("add a", answer.body)]

    run(stage, shop, test)


def test_a_copy_of_a_finished_command_whose_reply_has_not_left_yet_is_no_failed_attempt(stage: Stage) -> None:
    shop = Shop()

    async def test(runner: Runner) -> None:
        command = Add(account="a")
        nobody_reads = stage.envelope(command, reply_to=stage.names.replies("orders"))
        await stage.send(*[(command, nobody_reads)] * 3)
        await until(lambda: settled(stage, runner, nobody_reads.id))
        await stage.ask(Add(account="b"))  # behind the copies
        assert len(shop.calls) == 2
        assert await waiting(stage, runner) == []
        assert len(await stage.rows(runner, select(outbox))) == 1

    run(stage, shop, test)


def test_the_same_id_with_another_body_is_refused_and_changes_nothing(stage: Stage) -> None:
    async def test(runner: Runner) -> None:
        first = await stage.ask(Add(account="a", n=1))
        id_ = first.causation
        other = await stage.ask(Add(account="a", n=2), id_=id_)
        assert other.type == REJECTED
        assert json.loads(other.body)["status"] == 422
        assert json.loads(other.body)["reason"] == "other_body"
        again = await stage.ask(Add(account="a", n=1), id_=id_)
        assert (again.type, again.body) == (DONE, first.body)
        assert await effects(stage, runner) == ["add a"]

    run(stage, Shop(), test)


def test_a_copy_of_a_command_that_is_not_settled_is_told_how_it_stands(stage: Stage) -> None:
    shop, is_mended = Shop(retry=Retry(attempts=2, first=600)), False

    async def fail(command: Add, ctx: Context) -> None:
        if not is_mended:
            raise RuntimeError("broken")

    async def test(runner: Runner) -> None:
        nonlocal is_mended
        command = Add(account="a", n=1)
        envelope = stage.envelope(command)
        await stage.send((command, envelope))
        await until(lambda: waiting(stage, runner), "its first attempt failed")
        assert (await stage.ask(command, id_=envelope.id)).type == RUNNING
        other = await stage.ask(Add(account="a", n=2), id_=envelope.id)
        assert (other.type, json.loads(other.body)["reason"]) == (REJECTED, "other_body")
        await stage.rows(runner, update(pending).values(due_us=0))
        runner.pipeline.failures.wake_pending()
        await until(lambda: [a for a in stage.answers[envelope.id] if a.type == FAILED], "it gave up")
        is_mended = True
        late = await stage.ask(command, id_=envelope.id)
        assert (late.type, json.loads(late.body)["error"]) == (FAILED, "broken")
        assert await effects(stage, runner) == []

    shop.before = fail
    run(stage, shop, test)


def test_a_message_of_another_type_is_parked_and_stops_nothing(stage: Stage) -> None:
    async def test(runner: Runner) -> None:
        command = Add(account="a")
        astray = replace(stage.envelope(command), type="shop.subtract.v1")
        await stage.send((command, astray))
        parked = await until(lambda: waiting(stage, runner), "it is parked")
        assert (parked[0].state, parked[0].message_id) == ("dead", astray.id)
        assert "shop.subtract.v1 came to shop.add, which handles shop.add.v1" in parked[0].errors
        assert (await stage.answer_to(astray.id)).type == FAILED
        assert (await stage.ask(command)).type == DONE

    run(stage, Shop(), test)


def test_what_became_of_a_command_without_a_reply_is_done(stage: Stage) -> None:
    async def test(runner: Runner) -> None:
        removed = await stage.ask(Remove(account="a"))
        what = json.dumps({"command_id": removed.causation}).encode()
        question = replace(stage.envelope(Remove(account="a")), body=what, type="shop.operation.v1")
        exchange = stage.names.exchange(QUERIES)
        await stage.transport.publish([Outgoing(exchange, "shop.operation.v1.one", to_properties(question), what)])
        answer = await stage.answer_to(question.id)
        assert (answer.type, answer.body) == (DONE, b"null")

    run(stage, Shop(), test)


# --- undo -----------------------------------------------------------------------------------------


def test_an_undo_of_a_done_command_runs_once_whatever_its_copies(stage: Stage) -> None:
    async def test(runner: Runner) -> None:
        done = await stage.ask(Add(account="a"))
        undo = stage.envelope(Remove(account="a"), undoes=done.causation)
        await stage.send(*[(Remove(account="a"), undo)] * 5)
        await stage.answer_to(undo.id, 5)
        assert {answer.type for answer in stage.answers[undo.id]} == {DONE}
        assert await effects(stage, runner) == ["add a", "remove a"]

    run(stage, Shop(), test)


def test_an_undo_that_overtakes_its_command_makes_it_void(stage: Stage) -> None:
    shop = Shop()

    async def test(runner: Runner) -> None:
        late = stage.envelope(Add(account="a"))
        assert (await stage.ask(Remove(account="a"), undoes=late.id)).type == VOID
        await stage.send((Add(account="a"), late))
        assert (await stage.answer_to(late.id)).type == VOID
        assert shop.calls == []
        assert await effects(stage, runner) == []

    run(stage, shop, test)


def test_an_undo_of_a_command_that_waits_for_its_next_attempt_removes_it(stage: Stage) -> None:
    shop = Shop(Retry(first=60))
    shop.before = always(RuntimeError("not now"))

    async def test(runner: Runner) -> None:
        failing = stage.envelope(Add(account="a"))
        await stage.send((Add(account="a"), failing))
        await until(lambda: waiting(stage, runner))
        assert (await stage.ask(Remove(account="a"), undoes=failing.id)).type == VOID
        assert await waiting(stage, runner) == []
        assert (await settled(stage, runner, failing.id)).state == "void"
        assert await effects(stage, runner) == []

    run(stage, shop, test)


def test_an_undo_racing_its_command_never_leaves_an_effect_without_undo(stage: Stage) -> None:
    async def test(runner: Runner) -> None:
        sent = []
        for round_ in range(30):
            command, undo = Add(account=str(round_)), Remove(account=str(round_))
            first = stage.envelope(command)
            second = stage.envelope(undo, undoes=first.id)
            pair = [(command, first), (undo, second)]
            await stage.send(*(pair if round_ % 2 else reversed(pair)))
            sent.append((str(round_), first.id, second.id))
        for account, first_id, second_id in sent:
            done, undone = await stage.answer_to(first_id), await stage.answer_to(second_id)
            assert (done.type, undone.type) in {(DONE, DONE), (VOID, VOID)}, account
        found = await effects(stage, runner)
        for account, first_id, _ in sent:
            times = found.count(f"add {account}")
            assert times == found.count(f"remove {account}") == (stage.answers[first_id][0].type == DONE)

    run(stage, Shop(), test)


# --- attempts -------------------------------------------------------------------------------------


def always(error: Exception) -> Callable[[Add, Context], Awaitable[None]]:
    async def raising(_: Add, __: Context) -> None:
        raise error

    return raising


def test_a_handler_that_fails_twice_is_tried_again_and_then_answers(stage: Stage) -> None:
    shop = Shop(Retry(first=0.05))
    attempts: list[int] = []

    async def twice(_: Add, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        if len(attempts) <= 2:
            raise RuntimeError(f"number {len(attempts)}")

    shop.before = twice

    async def test(runner: Runner) -> None:
        answer = await stage.ask(Add(account="a"))
        assert answer.type == DONE
        assert attempts == [1, 2, 3]
        assert await effects(stage, runner) == ["add a"]
        assert await waiting(stage, runner) == []

    run(stage, shop, test)


def failures(follows: str) -> float:
    """Attempts of `shop.add` that this process has counted."""
    labels = {"handler": "shop.add", "follows": follows}
    return REGISTRY.get_sample_value("eventplat_messages_failed_total", labels) or 0.0


def test_a_handler_that_gives_up_leaves_a_dead_letter_with_every_error(stage: Stage) -> None:
    before = failures("retry"), failures("dead")
    shop = Shop(Retry(attempts=3, first=0.02))
    shop.before = always(RuntimeError("no luck"))

    async def test(runner: Runner) -> None:
        answer = await stage.ask(Add(account="a"))
        assert answer.type == FAILED
        assert json.loads(answer.body) == {"error": "no luck", "code": "RuntimeError"}
        (dead,) = await waiting(stage, runner)
        errors = json.loads(dead.errors)
        assert (dead.state, dead.attempts, dead.due_us) == ("dead", 3, None)
        assert [(error["type"], error["text"], error["attempt"]) for error in errors] == [
            ("RuntimeError", "no luck", number) for number in (1, 2, 3)
        ]
        assert await effects(stage, runner) == []
        assert await settled(stage, runner, dead.message_id) is None

    run(stage, shop, test)
    assert (failures("retry"), failures("dead")) == (before[0] + 2, before[1] + 1)


def test_an_error_that_the_policy_never_retries_is_dead_at_once(stage: Stage) -> None:
    shop = Shop(Retry(first=60, never=(KeyError,)))
    shop.before = always(KeyError("gone"))

    async def test(runner: Runner) -> None:
        assert (await stage.ask(Add(account="a"))).type == FAILED
        assert len(shop.calls) == 1

    run(stage, shop, test)


def test_a_rejection_rolls_back_the_writes_and_is_recorded_and_answered(stage: Stage) -> None:
    shop = Shop()
    shop.before = always(Rejected("sold_out", left=0))

    async def test(runner: Runner) -> None:
        answer = await stage.ask(Add(account="a"))
        assert answer.type == REJECTED
        assert json.loads(answer.body) == {"reason": "sold_out", "status": 409, "facts": {"left": 0}}
        again = await stage.ask(Add(account="a"), id_=answer.causation)
        assert (again.type, again.body) == (REJECTED, answer.body)
        assert len(shop.calls) == 1
        assert (await settled(stage, runner, answer.causation or "")).state == "rejected"
        assert await effects(stage, runner) == []
        assert await waiting(stage, runner) == []

    run(stage, shop, test)


def test_a_rejection_in_a_later_attempt_is_answered_and_leaves_nothing_pending(stage: Stage) -> None:
    shop = Shop()

    async def later(_: Add, ctx: Context) -> None:
        raise RuntimeError("first") if ctx.attempt == 1 else Rejected("after_all")

    shop.before = later

    async def test(runner: Runner) -> None:
        answer = await stage.ask(Add(account="a"))
        assert json.loads(answer.body)["reason"] == "after_all"
        assert await waiting(stage, runner) == []
        assert await effects(stage, runner) == []

    run(stage, shop, test)


def test_another_body_under_an_id_that_waits_for_its_retry_is_refused_and_the_first_stands(stage: Stage) -> None:
    shop = Shop(Retry(first=300))

    async def test(runner: Runner) -> None:
        async def fail(_: Add, __: Context) -> None:
            raise RuntimeError("once")

        shop.before, id_ = fail, stage.new_id()
        first = Add(account="a")
        await stage.send((first, stage.envelope(first, id_=id_)))
        await until(lambda: waiting(stage, runner), "its retry")
        answer = await stage.ask(Add(account="a", n=2), id_=id_)
        assert (answer.type, json.loads(answer.body)["reason"]) == (REJECTED, "other_body")
        assert [row.body for row in await waiting(stage, runner)] == [first.to_bytes()]

    run(stage, shop, test)


def test_a_handler_over_its_time_is_stopped_rolled_back_and_counted(stage: Stage) -> None:
    shop = Shop(Retry(attempts=2, first=0.02), timeout=0.05)

    async def hang(_: Add, __: Context) -> None:
        await asyncio.Event().wait()

    shop.before = hang

    async def test(runner: Runner) -> None:
        answer = await stage.ask(Add(account="a"))
        assert answer.type == FAILED
        assert json.loads(answer.body)["code"] == "TimeoutError"
        assert len(shop.calls) == 2
        assert await effects(stage, runner) == []

    run(stage, shop, test)


# --- poison ---------------------------------------------------------------------------------------


def test_bytes_that_are_no_message_are_parked_with_the_reason_and_the_next_is_handled(stage: Stage) -> None:
    async def test(runner: Runner) -> None:
        await stage.send_bytes(Add(account="a"), b"\xff\x00 not json", Properties(message_id="no id", type="?"))
        assert (await stage.ask(Add(account="b"))).type == DONE
        (parked,) = await waiting(stage, runner)
        assert (parked.state, parked.handler, parked.body) == ("dead", "shop.add", b"\xff\x00 not json")
        assert json.loads(parked.errors)[0]["type"] == "Malformed"
        assert json.loads(parked.errors)[0]["text"]
        assert parked.exchange == stage.names.exchange(COMMANDS)
        assert await effects(stage, runner) == ["add b"]

    run(stage, Shop(), test)


def test_a_command_whose_body_does_not_fit_is_answered_invalid(stage: Stage) -> None:
    shop = Shop()

    async def test(runner: Runner) -> None:
        envelope = replace(stage.envelope(Add(account="a")), body=b'{"account": "a", "n": "many"}')
        await stage.send((Add(account="a"), envelope))
        answer = await stage.answer_to(envelope.id)
        assert (answer.type, json.loads(answer.body)["status"]) == (REJECTED, 422)
        assert shop.calls == []

    run(stage, shop, test)


def test_a_message_counted_three_times_by_the_broker_runs_isolated(stage: Stage) -> None:
    shop = Shop()
    attempts: list[int] = []

    async def look(_: Add, ctx: Context) -> None:
        attempts.append(ctx.attempt)

    shop.before = look

    async def test(runner: Runner) -> None:
        envelope = stage.envelope(Add(account="a"))
        endpoint = next(e for e in runner._endpoints if e.identity == "shop.add")
        taken = Taken(stage._outgoing(Add(account="a"), envelope).properties, envelope.body, count=3)
        wake, runner.pipeline.failures.wake_pending = runner.pipeline.failures.wake_pending, lambda: None
        await runner.pipeline.process(endpoint, taken)
        assert taken.settled == ["ack"]
        assert shop.calls == []
        (row,) = await waiting(stage, runner)
        assert (row.state, row.attempts) == ("isolated", 0)
        wake()
        assert (await stage.answer_to(envelope.id)).type == DONE
        assert attempts == [1]
        assert await waiting(stage, runner) == []

    run(stage, shop, test)


class Taken:
    """A delivery as the broker hands it out after `count` losses."""

    queue, exchange, routing_key, redelivered = "shop.add", "", "", True

    def __init__(self, properties: Properties, body: bytes, count: int) -> None:
        self.properties, self.body, self.delivery_count = properties, body, count
        self.settled: list[str] = []

    def ack(self) -> None:
        self.settled.append("ack")

    def requeue(self) -> None:
        self.settled.append("requeue")

    def give_back(self) -> None:
        self.settled.append("give_back")

    def dead_letter(self) -> None:
        self.settled.append("dead_letter")


def test_a_command_past_its_deadline_is_void_and_never_runs(stage: Stage) -> None:
    shop = Shop()

    async def test(runner: Runner) -> None:
        past = stage.clock.time_us() // 1_000 - 1
        answer = await stage.ask(Add(account="a"), deadline_ms=past)
        assert answer.type == VOID
        assert shop.calls == []
        assert (await stage.ask(Add(account="a"), id_=answer.causation)).type == VOID
        assert await effects(stage, runner) == []

    run(stage, shop, test)
