"""The harness: a user's service under a virtual clock, with its real gateway."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import pytest

from eventplat.errors import Rejected
from eventplat.messages.message import Command, Event, Key, Query
from eventplat.retry import Retry
from eventplat.sagas.saga import Saga
from eventplat.service import pausing
from eventplat.service.context import Context
from eventplat.service.handler_control import HandlerControl
from eventplat.service.service import Service
from eventplat.testing.harness import Harness
from tests.conformance.stage import until


class Placed(Event):
    order_id: Key[str]
    n: int = 1


class Place(Command[Placed], name="shop.place"):
    order_id: Key[str]
    n: int = 1


class Ship(Command[str], name="shop.ship"):
    order_id: Key[str]


class Count(Query[int], name="shop.count"):
    pass


class Shop:
    """A service whose handlers note what they saw."""

    def __init__(self) -> None:
        self.thanked: list[int] = []
        self.service = Service("shop", retry=Retry(attempts=3, first=30))
        self.service.handles(Place, http="POST /orders")(self.place)
        self.service.handles(Count)(self.count)
        self.service.on(Placed)(self.thank)
        self.service.saga(Ship, id="order_id")(ship)

    async def place(self, command: Place, ctx: Context) -> Placed:
        if command.n == 0:
            raise Rejected("nothing")
        placed = Placed(order_id=command.order_id, n=command.n)
        ctx.publish(placed)
        return placed

    async def count(self, query: Count, ctx: Context) -> int:
        return len(self.thanked)

    async def thank(self, event: Placed, ctx: Context) -> None:
        self.thanked.append(event.n)


async def ship(command: Ship, saga: Saga) -> str:
    await saga.sleep(90)
    return "shipped"


def run(test: Callable[[Harness, Shop], Awaitable[Any]]) -> None:
    async def whole() -> None:
        shop = Shop()
        async with Harness(shop.service) as harness:
            await test(harness, shop)

    asyncio.run(whole())


def test_a_request_over_http_is_handled_and_quiet_waits_for_what_follows() -> None:
    async def test(harness: Harness, shop: Shop) -> None:
        answer = await harness.http.post("/orders", json={"order_id": "a", "n": 2})
        assert answer.json() == {"order_id": "a", "n": 2}
        await harness.quiet()
        assert shop.thanked == [2]
        assert harness.published(Placed) == [Placed(order_id="a", n=2)]

    run(test)


def test_ask_answers_with_the_type_and_raises_the_refusal() -> None:
    async def test(harness: Harness, shop: Shop) -> None:
        assert await harness.ask(Place(order_id="a", n=3)) == Placed(order_id="a", n=3)
        with pytest.raises(Rejected, match="nothing"):
            await harness.ask(Place(order_id="a", n=0))

    run(test)


def test_ask_answers_a_query_whose_deadline_is_on_the_virtual_clock() -> None:
    async def test(harness: Harness, shop: Shop) -> None:
        await harness.advance(seconds=40)
        assert await harness.ask(Count()) == 0

    run(test)


def test_what_a_test_looks_at_is_current_after_each_answer() -> None:
    async def test(harness: Harness, shop: Shop) -> None:
        assert harness.published(Placed) == []
        await harness.http.post("/orders", json={"order_id": "a", "n": 1})
        assert harness.published(Placed) == [Placed(order_id="a", n=1)]
        await harness.ask(Place(order_id="b", n=2))
        assert [placed.order_id for placed in harness.published(Placed)] == ["a", "b"]
        await harness.publish(Placed(order_id="c"))
        assert [placed.order_id for placed in harness.published(Placed)] == ["a", "b", "c"]

    run(test)


def test_an_injected_failure_is_tried_again_once_its_time_has_passed() -> None:
    async def test(harness: Harness, shop: Shop) -> None:
        harness.fail(shop.thank, RuntimeError("not yet"), times=1)
        await harness.publish(Placed(order_id="a", n=9))
        await harness.quiet()
        assert shop.thanked == []
        await harness.advance(minutes=1)
        assert shop.thanked == [9]
        assert harness.dead_letters == []

    run(test)


def test_what_fails_for_ever_becomes_a_dead_letter_without_waiting_for_it() -> None:
    async def test(harness: Harness, shop: Shop) -> None:
        harness.fail(shop.thank, RuntimeError("never"), times=100)
        began = time.monotonic()
        await harness.publish(Placed(order_id="a"))
        await harness.quiet()
        await harness.advance(minutes=2)
        (dead,) = harness.dead_letters
        assert (dead.handler, dead.attempts, len(dead.errors)) == ("shop.on-placed", 3, 3)
        assert time.monotonic() - began < 60

    run(test)


def test_a_saga_sleeps_until_the_clock_is_moved() -> None:
    async def test(harness: Harness, shop: Shop) -> None:
        asked = asyncio.create_task(harness.ask(Ship(order_id="a")))

        async def has_begun() -> bool:
            await harness.quiet()
            with contextlib.suppress(LookupError):
                return harness.saga(ship, "a").status == "running"
            return False

        await until(has_begun)
        await harness.advance(seconds=80)
        assert harness.saga(ship, "a").status == "running"
        await harness.advance(seconds=20)
        assert harness.saga(ship, "a").status == "completed"
        assert await asked == "shipped"
        with pytest.raises(LookupError):
            harness.saga(ship, "b")

    run(test)


def test_a_cron_runs_when_the_clock_passes_its_times() -> None:
    async def test() -> None:
        times: list[datetime] = []
        service = Service("shop")

        @service.cron("*/10 * * * * *", timezone="Asia/Kathmandu")
        async def look(ctx: Context) -> None:
            times.append(ctx.now.replace(microsecond=0))

        async with Harness(service) as harness:
            await harness.advance(seconds=20)

        assert [moment.second for moment in times] == [10, 20]

    asyncio.run(test())


def test_messages_that_wait_for_a_paused_handler_keep_no_test_from_coming_to_rest() -> None:
    async def test(harness: Harness, shop: Shop) -> None:
        control = HandlerControl(harness._process.runners[0].out.database)
        await control.pause("shop.on-placed")
        await harness.advance(seconds=pausing.EVERY_S)
        await harness.publish(Placed(order_id="a"))
        await harness.quiet()
        assert shop.thanked == []

        await control.resume("shop.on-placed")
        await harness.advance(seconds=pausing.EVERY_S)
        assert shop.thanked == [1]

    run(test)
