"""Old and new code of a service at once, on both databases: names and versions change, nothing is lost, nothing applied twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from eventplat.messages.envelope import DONE
from eventplat.messages.message import Command, Event, Key
from eventplat.retry import Retry
from eventplat.sagas.saga import Saga
from eventplat.service import failures, former
from eventplat.service.context import Context
from eventplat.service.service import Service
from eventplat.transactions.inbox import inbox
from eventplat.transactions.pending import pending
from tests.conformance.stage import Stage, until


class Placed(Event, name="orders.placed"):
    order_id: Key[str]
    n: int


class PlacedV2(Event, name="orders.placed", version=2):
    order_id: Key[str]
    n: int
    currency: str


@PlacedV2.upcasts(Placed)
def in_pounds(old: Placed) -> PlacedV2:
    return PlacedV2(order_id=old.order_id, n=old.n, currency="GBP")


class Shipped(Event, name="orders.shipped"):
    order_id: Key[str]
    n: int


class Sent(Event, name="orders.sent", formerly="shipped"):
    order_id: Key[str]
    n: int


class Reserve(Command[str], name="stock.reserve"):
    sku: Key[str]


class ReserveV2(Command[str], name="stock.reserve", version=2):
    sku: Key[str]
    quantity: int


@ReserveV2.upcasts(Reserve)
def one(old: Reserve) -> ReserveV2:
    return ReserveV2(sku=old.sku, quantity=1)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'mail.db'}"
    from tests.servers import fresh_database  # noqa: PLC0415 - starts a server, only when a test needs it

    return fresh_database()


def played(folder: Path, url: str, test: Callable[[Stage], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with Stage(folder, url) as stage:
            await test(stage)

    asyncio.run(whole())


class Release:
    """One release of the service `mail`: what it has handled, and whether it fails."""

    def __init__(self, message: type[Event], **options: Any) -> None:
        self.handled: list[tuple[int, str]] = []
        self.is_broken = False
        self.service = Service("mail", retry=Retry(attempts=50, first=0.05, longest=0.05))
        self.service.on(message, **options)(self.on_event)

    async def on_event(self, event: Any, ctx: Context) -> None:
        if self.is_broken:
            raise RuntimeError("told to")
        self.handled.append((event.n, getattr(event, "currency", "")))

    @property
    def numbers(self) -> list[int]:
        return [n for n, _ in self.handled]


async def settled(stage: Stage, runner: Any) -> None:
    """Wait until no queue of the service and no row of `pending` is left, and nothing is being handled."""

    async def is_quiet() -> bool:
        depths = sum((await runner.depths()).values())
        return not depths and not runner.in_flight and not await stage.rows(runner, select(pending.c.message_id))

    await until(is_quiet, "rest")


async def send(stage: Stage, events: list[Event], **more: Any) -> None:
    await stage.send(*[(event, stage.envelope(event, **more)) for event in events])


def test_a_renamed_handler_takes_over_what_the_old_name_left_and_does_nothing_again(tmp_path: Path, url: str) -> None:
    old, new = Release(Placed), Release(Placed, name="thank", formerly="on-placed")

    async def test(stage: Stage) -> None:
        first = await stage.run(old.service)
        done = [(event, stage.envelope(event)) for event in [Placed(order_id="a", n=n) for n in range(3)]]
        await stage.send(*done)
        await until(lambda: len(old.handled) == 3)
        old.is_broken = True
        await send(stage, [Placed(order_id="a", n=3)])  # stands in `pending` under the old name
        await until(lambda: stage.rows(first, select(pending.c.message_id)))
        await stage.stop(first)
        await send(stage, [Placed(order_id="a", n=4)])  # stands in the old queue
        runner = await stage.run(new.service)
        await stage.send(*done)  # copies, to both queues
        await send(stage, [Placed(order_id="a", n=5)])
        await until(lambda: len(new.handled) == 3)
        await settled(stage, runner)
        assert sorted(new.numbers) == [3, 4, 5]

    played(tmp_path, url, test)


def test_both_names_run_at_once_and_every_event_is_handled_by_one_of_them(tmp_path: Path, url: str) -> None:
    old, new = Release(Placed), Release(Placed, name="thank", formerly="on-placed")

    async def test(stage: Stage) -> None:
        first, runner = await stage.run(old.service), await stage.run(new.service)
        old.is_broken = new.is_broken = True  # the first attempts: rows of whichever took them
        await send(stage, [Placed(order_id=str(n), n=n) for n in range(10)])
        await until(lambda: stage.rows(first, select(pending.c.message_id)))
        old.is_broken = new.is_broken = False
        await send(stage, [Placed(order_id=str(n), n=n) for n in range(10, 60)])
        await until(lambda: len(old.handled) + len(new.handled) >= 60)
        for each in (first, runner):
            await settled(stage, each)
        assert sorted(old.numbers + new.numbers) == list(range(60))
        consumers = {row.consumer for row in await stage.rows(runner, select(inbox.c.consumer))}
        assert consumers == {"mail.on-placed"}

    played(tmp_path, url, test)


def test_a_former_queue_that_goes_is_left_and_one_that_comes_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(former, "EVERY_S", 0.02)
    new = Release(Placed, name="thank", formerly="on-placed")
    old = Release(Placed)

    async def test(stage: Stage) -> None:
        runner = await stage.run(new.service)
        assert await stage.transport.depth("eventplat.mail.on-placed") is None
        assert not runner.missing()
        await stage.stop(await stage.run(old.service))  # a step back, and forward again
        (consumer,) = runner._former.consumers
        await until(lambda: consumer.is_active)
        broker: Any = stage.transport
        broker._turns().router.queue_delete("eventplat.mail.on-placed")
        await until(lambda: not consumer.is_active)
        assert not runner.missing()
        await send(stage, [Placed(order_id="a", n=1)])
        await until(lambda: new.numbers == [1])

    played(tmp_path, f"sqlite:///{tmp_path / 'mail.db'}", test)


def test_an_event_under_its_former_name_is_read_by_the_renamed_class(tmp_path: Path, url: str) -> None:
    old, new = Release(Shipped), Release(Sent)

    async def test(stage: Stage) -> None:
        first, runner = await stage.run(old.service), await stage.run(new.service)
        await send(stage, [kind(order_id=str(n), n=n) for n in range(20) for kind in (Shipped, Sent)])
        await until(lambda: len(old.handled) + len(new.handled) >= 40)
        for each in (first, runner):
            await settled(stage, each)
        assert sorted(old.numbers + new.numbers) == sorted([*range(20), *range(20)])

    played(tmp_path, url, test)


def test_a_newer_version_that_an_old_instance_takes_waits_for_a_new_one(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "NEWER_WAIT_US", 10_000)
    old, new = Release(Placed), Release(PlacedV2)

    async def test(stage: Stage) -> None:
        runner = await stage.run(new.service)
        first = await stage.run(old.service)
        await send(stage, [PlacedV2(order_id=str(n), n=n, currency="EUR") for n in range(6)])
        await send(stage, [Placed(order_id=str(n), n=n) for n in range(6, 12)])
        await until(lambda: len(old.handled) + len(new.handled) >= 12)
        for each in (first, runner):
            await settled(stage, each)
        assert sorted(old.numbers + new.numbers) == list(range(12))
        assert {n for n, currency in new.handled if currency == "EUR"} == set(range(6))
        assert {currency for n, currency in new.handled if n >= 6} <= {"GBP"}

    played(tmp_path, url, test)


def test_a_version_that_no_release_ever_knows_ends_as_a_dead_letter_that_says_so(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "NEWER_WAIT_US", 0)
    monkeypatch.setattr(failures, "NEWER_US_MAX", -1)
    old, new = Release(Placed), Release(PlacedV2)

    async def test(stage: Stage) -> None:
        await stage.stop(await stage.run(new.service))  # it was tried, and taken back: its binding stays
        runner = await stage.run(old.service)
        await send(stage, [PlacedV2(order_id="a", n=1, currency="EUR")])
        (row,) = await until(lambda: stage.rows(runner, select(pending).where(pending.c.state == "dead")))
        assert "EP105" in row.errors
        assert "orders.placed.v2 came to mail.on-placed, which handles orders.placed.v1" in row.errors

    played(tmp_path, url, test)


def test_the_order_of_a_key_goes_over_versions_and_no_event_is_passed_over_by_old_code(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "NEWER_WAIT_US", 10_000)
    old, new = Release(Placed, ordered=True), Release(PlacedV2, ordered=True)
    together: list[tuple[int, str]] = []
    old.handled = new.handled = together  # the order in which both applied them

    async def test(stage: Stage) -> None:
        runner = await stage.run(old.service)  # the single active consumer
        await stage.run(new.service)
        began = stage.clock.time_us() + 1_000_000
        events: list[Event] = [Placed(order_id="a", n=n) for n in range(15)]
        events[1::2] = [PlacedV2(order_id="a", n=n, currency="EUR") for n in range(1, 15, 2)]
        events[4::5] = [Shipped(order_id="a", n=n) for n in range(4, 15, 5)]  # which neither takes
        await stage.send(*[
            (event, stage.envelope(event, seq=began + n, prev=began + n - 1 if n else None)) for n, event in enumerate(events)
        ])  # fmt: skip
        wanted = [n for n in range(15) if n % 5 != 4]
        await until(lambda: len(together) == len(wanted))
        await settled(stage, runner)
        assert [n for n, _ in together] == wanted

    played(tmp_path, url, test)


def test_commands_of_both_versions_are_answered_by_both_releases(tmp_path: Path, url: str) -> None:
    old, new = Service("stock"), Service("stock")

    @old.handles(Reserve)
    async def reserve(command: Reserve, ctx: Context) -> str:
        return f"{command.sku} by old"

    @new.handles(ReserveV2)
    async def reserve_some(command: ReserveV2, ctx: Context) -> str:
        return f"{command.quantity} {command.sku}"

    async def test(stage: Stage) -> None:
        runner = await stage.run(new)
        assert (await stage.ask(Reserve(sku="a"))).body == b'"1 a"'
        first = await stage.run(old)
        answers = [await stage.ask(Reserve(sku=str(n))) for n in range(6)]
        assert {answer.body.endswith(b'by old"') for answer in answers} == {True, False}, "they compete for version 1"
        again = await stage.ask(Reserve(sku="0"), id_=answers[0].causation)
        assert (again.type, again.body) == (DONE, answers[0].body)
        assert (await stage.ask(ReserveV2(sku="b", quantity=3))).body == b'"3 b"'
        await stage.stop(first)
        assert not await stage.rows(runner, select(pending.c.message_id))

    played(tmp_path, url, test)


def test_a_saga_that_began_with_an_older_command_goes_on_in_newer_code(tmp_path: Path, url: str) -> None:
    old, new = Service("stock"), Service("stock")

    @old.saga(Reserve)
    async def waits(command: Reserve, saga: Saga) -> str:
        await saga.sleep(0.2)
        return "by old"

    @new.saga(ReserveV2)
    async def waits_too(command: ReserveV2, saga: Saga) -> str:
        await saga.sleep(0.2)
        return f"{command.quantity} {command.sku}"

    async def test(stage: Stage) -> None:
        first = await stage.run(old)
        command = Reserve(sku="a")
        envelope = stage.envelope(command)
        await stage.send((command, envelope))
        await until(lambda: stage.rows(first, select(inbox.c.message_id)))
        await stage.stop(first)
        await stage.run(new)
        assert (await stage.answer_to(envelope.id)).body == b'"1 a"'

    played(tmp_path, url, test)
