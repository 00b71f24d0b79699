"""Events that nobody subscribed to, on both databases: kept, and sent once when somebody does, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from eventplat.broker.topology import Names
from eventplat.discovery.instance import Manifest
from eventplat.messages.message import Event, Key
from eventplat.service.context import Context
from eventplat.service.endpoint import manifest
from eventplat.service.runner import Runner
from eventplat.service.service import Service
from eventplat.transactions.outbox_tables import event_log, outbox
from eventplat.transactions.unrouted import Unrouted
from tests.conformance.stage import Stage, until
from tests.conformance.test_outbox import Instance, Placed, instance


class Moved(Event, name="stock.moved"):
    sku: Key[str]
    n: int


class Counted(Event, name="stock.counted", stream="count"):
    n: int


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'orders.db'}"
    from tests.servers import fresh_database  # noqa: PLC0415 - starts a server, only when a test needs it

    return fresh_database()


class Mail:
    """Hears of what moved."""

    def __init__(self, message: type[Event] = Moved, *, ordered: bool = True) -> None:
        self.heard: list[int] = []
        self.service = Service("mail")
        self.service.on(message, ordered=ordered)(self.on_event)

    async def on_event(self, event: Any, ctx: Context) -> None:
        self.heard.append(event.n)


async def publish(runner: Runner, *events: Event) -> None:
    for event in events:
        async with runner.out.transactions.begin() as work:
            work.publish(event)


async def marked(stage: Stage, runner: Runner) -> int:
    """How many events reached nobody, once nothing is on its way."""

    async def none_left() -> bool:
        return not await stage.rows(runner, select(outbox.c.id))

    await until(none_left, "an empty outbox")
    return len(await stage.rows(runner, select(event_log.c.id).where(text("unrouted"))))


def played(folder: Path, url: str | None, test: Callable[[Stage], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with Stage(folder, url) as stage:
            await test(stage)

    asyncio.run(whole())


def test_the_past_that_nobody_heard_is_sent_in_order_when_a_handler_is_announced_and_only_once(tmp_path: Path, url: str) -> None:
    mail = Mail()

    async def test(stage: Stage) -> None:
        stock = await stage.run(Service("stock"))
        await publish(stock, *[Moved(sku="a", n=n) for n in range(8)])
        await publish(stock, Counted(n=1))
        assert await marked(stage, stock) == 9
        listener = await stage.run(mail.service)
        await until(lambda: len(mail.heard) == 8)
        assert await marked(stage, stock) == 1, "nobody takes what was counted"
        await publish(stock, Moved(sku="a", n=8))
        await until(lambda: len(mail.heard) == 9)
        await stage.stop(listener)
        await stage.run(mail.service)
        assert await marked(stage, stock) == 1
        assert mail.heard == list(range(9))

    played(tmp_path, url, test)


def test_who_was_away_when_a_handler_was_announced_asks_when_it_starts(tmp_path: Path, url: str) -> None:
    mail = Mail(Counted, ordered=False)

    async def test(stage: Stage) -> None:
        stock = await stage.run(Service("stock"))
        await publish(stock, Counted(n=1), Counted(n=2))
        assert await marked(stage, stock) == 2
        await stage.stop(stock)
        await stage.run(mail.service)
        stock = await stage.run(Service("stock"))
        await until(lambda: sorted(mail.heard) == [1, 2])
        assert await marked(stage, stock) == 0

    played(tmp_path, url, test)


def wants(*messages: type[Event]) -> Manifest:
    service = Service("mail")
    for message in messages:

        async def nothing(event: Any, ctx: Context) -> None: ...

        service.on(message, ordered=True)(nothing)
    return manifest(service, "1")


def unrouted_of(one: Instance) -> Unrouted:
    return Unrouted(one.database, one.owner, one.dispatcher, "orders", one.clock)


async def nobody_heard(one: Instance, *numbers: int) -> None:
    """Publish, and have it come back."""
    one.broker.is_unbound = True
    await one.publish(*[Placed(order_id="a", n=n) for n in numbers])
    await one.all_left()
    one.broker.is_unbound = False
    one.broker.sent.clear()


def test_whoever_dies_with_reopened_events_leaves_them_to_the_relay_of_another(url: str) -> None:
    async def test() -> None:
        async with instance(url) as victim, instance(url) as heir:
            await nobody_heard(victim, 0, 1, 2)
            victim.broker.is_away = True
            waiting = unrouted_of(victim)
            waiting.hear(wants(Placed))
            await waiting.run_once()
            assert not await victim.rows(select(event_log.c.id).where(text("unrouted")))
            await victim.die()
            await heir.relay.run_once()
            await heir.all_left()
            assert sorted(sent.body for sent in heir.broker.sent) == [Placed(order_id="a", n=n).to_bytes() for n in range(3)]
            assert {sent.exchange for sent in heir.broker.sent} == {Names().exchange("events")}
            assert {sent.routing_key.rpartition(".")[0] for sent in heir.broker.sent} == {"orders.order.placed.v1"}

    asyncio.run(test())


def test_two_instances_that_hear_of_a_handler_send_each_event_once(url: str) -> None:
    async def test() -> None:
        async with instance(url) as one, instance(url) as two:
            await nobody_heard(one, *range(30))
            both = [unrouted_of(one), unrouted_of(two)]
            for waiting in both:
                waiting.hear(wants(Placed))
            await asyncio.gather(*(waiting.run_once() for waiting in both))
            await one.all_left()
            assert len(one.broker.sent) + len(two.broker.sent) == 30

    asyncio.run(test())


def test_an_event_that_comes_back_just_after_the_announcement_is_looked_for_again(url: str) -> None:
    async def test() -> None:
        async with instance(url) as one:
            waiting = unrouted_of(one)
            waiting.hear(wants(Placed))
            await waiting.run_once()
            await nobody_heard(one, 1)
            await waiting.run_once()
            await one.all_left()
            assert len(one.broker.sent) == 1

    asyncio.run(test())


def test_what_comes_back_once_more_is_marked_once_more(url: str) -> None:
    async def test() -> None:
        async with instance(url) as one:
            await nobody_heard(one, 1)
            one.broker.is_unbound = True
            waiting = unrouted_of(one)
            waiting.hear(wants(Placed))
            await waiting.run_once()
            await one.all_left()
            assert len(await one.rows(select(event_log.c.id).where(text("unrouted")))) == 1

    asyncio.run(test())
