"""Services without a database: at least once, what they send and answer, and where their failures go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData

from eventplat.errors import BadHandler, Rejected
from eventplat.messages.codec import Properties
from eventplat.messages.envelope import DONE, FAILED, REJECTED, VOID
from eventplat.messages.message import Command, Event, Key, Query
from eventplat.retry import Retry
from eventplat.service.context import Context
from eventplat.service.handlers import Handlers
from eventplat.service.service import Service
from tests.conformance.stage import Stage, until


class Sent(Event, name="mail.sent"):
    to: Key[str]


class SendLetter(Command[str], name="mail.send-letter"):
    to: Key[str]


class CountLetters(Query[int], name="mail.count-letters"):
    pass


class Nowhere(Command[None], name="nobody.nowhere"):
    pass


Act = Callable[[SendLetter, Context], Awaitable[None]]


class Mail:
    """Sends letters into a list; does what a test tells it before."""

    def __init__(self, act: Act | None = None) -> None:
        self.letters: list[tuple[str, int]] = []
        self.heard: list[str] = []
        self.service = Service("mail", database=False, retry=Retry(attempts=3, first=0.01))
        self.act = act
        self.service.handles(SendLetter)(self.send)
        self.service.handles(CountLetters)(self.count)
        self.service.on(Sent)(self.sent)

    async def send(self, command: SendLetter, ctx: Context) -> str:
        self.letters.append((ctx.idempotency_key, ctx.attempt))
        ctx.publish(Sent(to=command.to))
        if self.act is not None:
            await self.act(command, ctx)
        return f"to {command.to}"

    async def count(self, query: CountLetters, ctx: Context) -> int:
        return len(self.letters)

    async def sent(self, event: Sent, ctx: Context) -> None:
        self.heard.append(event.to)


def run(folder: Path, mail: Mail, test: Callable[[Stage], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with Stage(folder, None) as stage:
            await stage.run(mail.service)
            await test(stage)

    asyncio.run(whole())


async def until_dead(stage: Stage, count: int) -> None:
    async def depth() -> bool:
        return await stage.transport.depth(stage.names.dead("mail")) == count

    await until(depth, f"{count} dead letters")


def test_a_command_is_answered_what_it_published_is_heard_and_no_file_is_made(tmp_path: Path) -> None:
    mail = Mail()

    async def test(stage: Stage) -> None:
        answer = await stage.ask(SendLetter(to="ann"))
        assert (answer.type, answer.body) == (DONE, b'"to ann"')
        await until(lambda: mail.heard == ["ann"])
        assert not (tmp_path / "mail.db").exists()

    run(tmp_path, mail, test)


def test_a_copy_runs_again_under_the_same_idempotency_key(tmp_path: Path) -> None:
    mail = Mail()

    async def test(stage: Stage) -> None:
        first = await stage.ask(SendLetter(to="ann"))
        await stage.ask(SendLetter(to="ann"), id_=first.causation)
        assert len(mail.letters) == 2
        assert len(set(mail.letters)) == 1

    run(tmp_path, mail, test)


def test_a_failed_attempt_sends_nothing_and_runs_again(tmp_path: Path) -> None:
    async def fail_once(command: SendLetter, ctx: Context) -> None:
        if ctx.attempt == 1:
            raise ConnectionError("the mail server is away")

    mail = Mail(fail_once)

    async def test(stage: Stage) -> None:
        assert (await stage.ask(SendLetter(to="ann"))).type == DONE
        await until(lambda: mail.heard)
        assert ([attempt for _, attempt in mail.letters], mail.heard) == ([1, 2], ["ann"])

    run(tmp_path, mail, test)


def test_out_of_attempts_it_is_answered_as_failed_and_goes_to_the_brokers_dead_letters(tmp_path: Path) -> None:
    async def fail(command: SendLetter, ctx: Context) -> None:
        if command.to == "nobody":
            raise ConnectionError("no such address")

    mail = Mail(fail)

    async def test(stage: Stage) -> None:
        answer = await stage.ask(SendLetter(to="nobody"))
        assert (answer.type, json.loads(answer.body)) == (FAILED, {"error": "no such address", "code": "ConnectionError"})
        await until_dead(stage, 1)
        assert ([attempt for _, attempt in mail.letters], mail.heard) == ([1, 2, 3], [])
        assert (await stage.ask(SendLetter(to="ann"))).type == DONE

    run(tmp_path, mail, test)


def test_a_no_is_an_answer_and_no_failure(tmp_path: Path) -> None:
    async def refuse(command: SendLetter, ctx: Context) -> None:
        raise Rejected("unsubscribed", to=command.to)

    mail = Mail(refuse)

    async def test(stage: Stage) -> None:
        answer = await stage.ask(SendLetter(to="ann"))
        assert (answer.type, json.loads(answer.body)["reason"]) == (REJECTED, "unsubscribed")
        assert (len(mail.letters), await stage.transport.depth(stage.names.dead("mail"))) == (1, 0)

    run(tmp_path, mail, test)


async def use_db(command: SendLetter, ctx: Context) -> None:
    _ = ctx.db


async def delay(command: SendLetter, ctx: Context) -> None:
    ctx.publish(Sent(to="later"), after=60)


async def cancel(command: SendLetter, ctx: Context) -> None:
    await ctx.cancel(ctx.envelope.id)


async def send_nowhere(command: SendLetter, ctx: Context) -> None:
    ctx.send(Nowhere())


@pytest.mark.parametrize(("act", "code"), [(use_db, "EP714"), (delay, "EP714"), (cancel, "EP714"), (send_nowhere, "EP715")])
def test_what_it_cannot_do_is_a_failure_that_says_so(tmp_path: Path, act: Act, code: str) -> None:
    async def test(stage: Stage) -> None:
        answer = await stage.ask(SendLetter(to="ann"))
        assert (answer.type, json.loads(answer.body)["code"]) == (FAILED, code)

    run(tmp_path, Mail(act), test)


def test_what_is_no_message_goes_to_the_dead_letters_and_stops_nothing(tmp_path: Path) -> None:
    mail = Mail()

    async def test(stage: Stage) -> None:
        await stage.send_bytes(SendLetter(to="ann"), b"{", Properties(message_id="not an id"))
        await until_dead(stage, 1)
        assert (await stage.ask(SendLetter(to="ann"))).type == DONE

    run(tmp_path, mail, test)


def test_what_has_expired_is_void_and_does_not_run(tmp_path: Path) -> None:
    mail = Mail()

    async def test(stage: Stage) -> None:
        assert (await stage.ask(SendLetter(to="ann"), deadline_ms=1)).type == VOID
        assert mail.letters == []

    run(tmp_path, mail, test)


def test_what_was_not_acked_comes_again_until_its_attempts_are_used_up(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def hang(command: SendLetter, ctx: Context) -> None:
        begun.set()
        if command.to == "hang":
            await asyncio.sleep(3_600)

    mail = Mail(hang)

    async def whole() -> None:
        async with Stage(tmp_path, None, drain_s=0.01) as stage:
            runner = await stage.run(mail.service)
            command = SendLetter(to="hang")
            envelope = stage.envelope(command)
            await stage.send((command, envelope))
            for _ in range(3):
                await begun.wait()
                begun.clear()
                await stage.stop(runner)
                runner = await stage.run(mail.service)
            assert (await stage.answer_to(envelope.id)).type == FAILED
            await until_dead(stage, 1)
            assert [attempt for _, attempt in mail.letters] == [1, 2, 3]
            assert (await stage.ask(SendLetter(to="ann"))).type == DONE

    asyncio.run(whole())


def with_ordered(mail: Service[None]) -> None:
    async def sent(event: Sent, ctx: Context) -> None: ...

    mail.on(Sent, ordered=True)(sent)


def with_saga(mail: Service[None]) -> None:
    handlers = Handlers[None]()

    async def letter(command: SendLetter, saga: Any) -> str:
        return ""

    handlers.saga(SendLetter)(letter)
    mail.include(handlers)


def with_tick(mail: Service[None]) -> None:
    async def tidy(ctx: Context) -> None: ...

    mail.every(minutes=1)(tidy)


def with_tables(mail: Service[None]) -> None:
    mail.tables = MetaData()


@pytest.mark.parametrize("declare", [with_ordered, with_saga, with_tick, with_tables])
def test_what_needs_a_database_is_refused_when_it_is_declared(declare: Callable[[Service[None]], None]) -> None:
    mail = Service("mail", database=False)
    declare(mail)

    with pytest.raises(BadHandler, match="database=False"):
        mail.check()
