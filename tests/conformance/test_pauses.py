"""Pausing on both databases: in every instance, over restarts, on the wire and from the database; and back again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import select

from eventplat.errors import NoSuchHandler
from eventplat.messages.envelope import DONE
from eventplat.messages.message import Command, Key
from eventplat.service import pausing
from eventplat.service.context import Context
from eventplat.service.handler_control import HandlerControl
from eventplat.service.runner import Runner
from eventplat.service.service import Service
from eventplat.transactions import pending as pending_rows
from eventplat.transactions.pending import pending
from tests.conformance.stage import Stage, until

HANDLER = "shop.add"


class Add(Command[int], name="shop.add"):
    account: Key[str]


class Ping(Command[int], name="shop.ping"):
    pass


class Shop:
    """A service with a handler that can be held up, one message at a time, and one that answers."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.done: list[str] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.service = Service("shop")
        self.service.handles(Add, concurrency=1)(self.add)
        self.service.handles(Ping)(self.ping)

    async def add(self, command: Add, ctx: Context) -> int:
        self.begun.append(command.account)
        await self.go_on.wait()
        self.done.append(command.account)
        return 1

    async def ping(self, command: Ping, ctx: Context) -> int:
        return 1


@pytest.fixture(params=["sqlite", "postgresql"])
def stage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(pausing, "EVERY_S", 0.05)
    return Stage(tmp_path, None) if request.param == "sqlite" else on_postgresql(tmp_path)


def on_postgresql(folder: Path) -> Stage:
    from tests.servers import fresh_database  # noqa: PLC0415 - starts a server, only when a test needs it

    return Stage(folder, fresh_database())


def run(stage: Stage, test: Callable[[Shop, Runner, HandlerControl], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with stage:
            shop = Shop()
            runner = await stage.run(shop.service)
            await test(shop, runner, HandlerControl(runner.out.database, by="ana"))

    asyncio.run(whole())


async def send(stage: Stage, *accounts: str) -> None:
    await stage.send(*((message, stage.envelope(message)) for message in (Add(account=account) for account in accounts)))


async def wait_for_a_retry(stage: Stage, runner: Runner, account: str) -> None:
    """A failed attempt of the handler, whose next is due now."""
    envelope = stage.envelope(Add(account=account))
    async with runner.out.database.transaction() as connection:
        await pending_rows.record(connection, HANDLER, envelope, state="retry", attempts=1, wait_us=0, error=None)


def test_a_paused_handler_takes_nothing_in_any_instance_until_it_is_resumed(stage: Stage) -> None:
    async def test(shop: Shop, runner: Runner, control: HandlerControl) -> None:
        other = await stage.run(shop.service)
        assert await control.pause(HANDLER, reason="the bank is down")
        assert not await control.pause(HANDLER)
        await until(lambda: runner.paused == other.paused == {HANDLER})
        await until(lambda: set(runner_queues(runner)) | set(runner_queues(other)) == set())

        await send(stage, "a", "b")
        await wait_for_a_retry(stage, runner, "c")
        late = await stage.run(shop.service)
        for _ in range(3):
            assert (await stage.ask(Ping())).type == DONE, "the others go on"
        assert shop.begun == []
        assert await stage.transport.depth(stage.names.queue(HANDLER)) == 2
        assert all(not each.missing() for each in (runner, other, late)), "waiting is well"

        (state,) = [state for name, state in (await control.list()).items() if name == HANDLER]
        assert state.pause is not None
        assert (state.pause.by, state.pause.reason, state.count("retry"), state.due) == ("ana", "the bank is down", 1, 1)

        assert await control.resume(HANDLER)
        await until(lambda: sorted(shop.done) == ["a", "b", "c"])
        assert not await control.resume(HANDLER)

    run(stage, test)


def runner_queues(runner: Runner) -> list[str]:
    """The handler's queue, where this instance takes from it."""
    return [consumer.queue.name for consumer in runner._consumers if consumer.queue.name.endswith(HANDLER) and consumer.is_active]


def test_what_runs_ends_and_what_has_not_begun_goes_back_uncounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On PostgreSQL: on SQLite a pause waits, as any writer, for the handler that runs."""
    monkeypatch.setattr(pausing, "EVERY_S", 0.05)
    stage = on_postgresql(tmp_path)

    async def test(shop: Shop, runner: Runner, control: HandlerControl) -> None:
        shop.go_on.clear()
        await send(stage, "a", "b", "c")
        await until(lambda: shop.begun == ["a"])
        for _ in range(4):  # three counted deliveries would isolate them
            await control.pause(HANDLER)
            await until(lambda: stage_depth(stage, 2))
            await control.resume(HANDLER)
            await until(lambda: stage_depth(stage, 0))
        await control.pause(HANDLER)
        await until(lambda: stage_depth(stage, 2))
        shop.go_on.set()
        await until(lambda: shop.done == ["a"])
        assert (await stage.ask(Ping())).type == DONE
        assert shop.begun == ["a"]

        await control.resume(HANDLER)
        await until(lambda: shop.done == ["a", "b", "c"])
        assert await stage.rows(runner, select(pending)) == [], "none was isolated"

    run(stage, test)


async def stage_depth(stage: Stage, depth: int) -> bool:
    return await stage.transport.depth(stage.names.queue(HANDLER)) == depth


@pytest.mark.parametrize("handler", ["mail.add", "shop", "shop.", ""])
def test_a_handler_of_another_service_is_refused(tmp_path: Path, handler: str) -> None:
    async def test(_shop: Shop, _runner: Runner, control: HandlerControl) -> None:
        with pytest.raises(NoSuchHandler):
            await control.pause(handler)
        with pytest.raises(NoSuchHandler):
            await control.resume(handler)

    run(Stage(tmp_path, None), test)
