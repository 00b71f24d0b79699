"""Handlers that ask other services, on both databases: never inside a transaction, and exactly once all the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text, insert, select

from eventplat.errors import BadHandler, Failed
from eventplat.messages.envelope import DONE, FAILED
from eventplat.messages.message import Command, Event, Key, Query
from eventplat.retry import Retry
from eventplat.service.client import Client
from eventplat.service.context import Context, SyncContext
from eventplat.service.handlers import Handlers
from eventplat.service.service import Service
from eventplat.transactions.outbox_tables import event_log
from eventplat.transactions.pending import pending
from tests.conformance.stage import Stage, until

tables = MetaData()
sold = Table("sold", tables, Column("id", Integer, primary_key=True), Column("sku", Text), Column("price", Integer))


class PriceOf(Query[int], name="prices.price-of"):
    sku: str


class TotalOf(Query[int], name="shop.total-of"):
    sku: str


class TwiceOf(Query[int], name="shop.twice-of"):
    sku: str


class Sell(Command[int], name="shop.sell"):
    sku: Key[str]


class Sold(Event, name="shop.sold"):
    sku: Key[str]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str | None:
    if request.param == "sqlite":
        return None
    from tests.servers import fresh_database  # noqa: PLC0415 - starts a server, only when a test needs it

    return fresh_database()


class Prices:
    """Answers what something costs, when it may."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.service = Service("prices", database=False)
        self.service.handles(PriceOf)(self.price_of)

    async def price_of(self, query: PriceOf, ctx: Context) -> int:
        self.asked.append(query.sku)
        await self.may_answer.wait()
        return 7


class Shop:
    """Sells what it has asked the price of; `act` runs between asking and writing."""

    def __init__(self, act: Callable[[Context], Awaitable[None]] | None = None, **options: Any) -> None:
        self.act = act
        self.service = Service("shop", tables=tables, retry=Retry(attempts=2, first=0.01))
        self.service.handles(Sell, **options)(self.sell)

    async def sell(self, command: Sell, ctx: Context) -> int:
        price = await ctx.ask(PriceOf(sku=command.sku))
        if self.act is not None:
            await self.act(ctx)
        await ctx.db.execute(insert(sold).values(sku=command.sku, price=price))
        ctx.publish(Sold(sku=command.sku))
        return price


def played(folder: Path, url: str | None, test: Callable[[Stage], Awaitable[None]], **settings: Any) -> None:
    async def whole() -> None:
        async with Stage(folder, url, **settings) as stage:
            await test(stage)

    asyncio.run(whole())


async def sales(stage: Stage, runner: Any) -> tuple[int, int]:
    """Rows and events."""
    rows, events = await stage.rows(runner, select(sold.c.id)), await stage.rows(runner, select(event_log.c.id))
    return len(rows), len(events)


def test_a_late_handler_asks_first_and_its_copies_are_answered_from_the_record(tmp_path: Path, url: str | None) -> None:
    async def test(stage: Stage) -> None:
        prices, shop = Prices(), Shop(transaction="late")
        await stage.run(prices.service)
        runner = await stage.run(shop.service)
        first = await stage.ask(Sell(sku="a"))
        again = await stage.ask(Sell(sku="a"), id_=first.causation)
        assert (first.type, first.body, again.body, again.id) == (DONE, b"7", b"7", first.id)
        assert (prices.asked, await sales(stage, runner)) == (["a"], (1, 1))

    played(tmp_path, url, test)


def test_copies_that_ask_at_once_in_two_instances_take_effect_once(tmp_path: Path, url: str | None) -> None:
    async def test(stage: Stage) -> None:
        prices, shops = Prices(), [Shop(transaction="late"), Shop(transaction="late")]
        prices.may_answer.clear()
        await stage.run(prices.service)
        runner, _ = [await stage.run(shop.service) for shop in shops]
        command = Sell(sku="a")
        envelope = stage.envelope(command)
        await stage.send((command, envelope), (command, envelope))
        await until(lambda: len(prices.asked) == 2)
        prices.may_answer.set()
        answers = [await stage.answer_to(envelope.id, number) for number in (1, 2)]
        assert [answer.body for answer in answers] == [b"7", b"7"]
        assert await sales(stage, runner) == (1, 1)

    played(tmp_path, url, test)


def test_a_late_handler_that_fails_runs_again_from_the_database_and_may_ask_again(tmp_path: Path, url: str | None) -> None:
    async def fail_once(ctx: Context) -> None:
        if ctx.attempt == 1:
            raise RuntimeError("told to")

    async def test(stage: Stage) -> None:
        prices = Prices()
        await stage.run(prices.service)
        runner = await stage.run(Shop(fail_once, transaction="late").service)
        assert (await stage.ask(Sell(sku="a"))).body == b"7"
        assert (prices.asked, await sales(stage, runner)) == (["a", "a"], (1, 1))
        assert not await stage.rows(runner, select(pending.c.message_id))

    played(tmp_path, url, test)


async def touch_then_ask(ctx: Context) -> None:
    await ctx.db.execute(select(sold.c.id))
    await ctx.ask(PriceOf(sku="b"))


@pytest.mark.parametrize(("act", "options"), [(None, {}), (touch_then_ask, {"transaction": "late"})], ids=["ordinary", "late"])
def test_who_asks_while_a_transaction_is_open_is_told_what_to_do(
    tmp_path: Path, url: str | None, act: Callable[[Context], Awaitable[None]] | None, options: dict[str, Any]
) -> None:
    async def test(stage: Stage) -> None:
        await stage.run(Prices().service)
        runner = await stage.run(Shop(act, **options).service)
        answer = await stage.ask(Sell(sku="a"))
        assert (answer.type, json.loads(answer.body)["code"]) == (FAILED, "EP501")
        assert "declare the handler with transaction='late'" in json.loads(answer.body)["error"]
        assert await sales(stage, runner) == (0, 0)

    played(tmp_path, url, test)


def test_queries_ask_other_queries_of_their_own_service_with_one_connection(tmp_path: Path, url: str | None) -> None:
    shop = Service("shop", tables=tables)

    @shop.handles(TwiceOf)
    async def twice_of(query: TwiceOf, ctx: Context) -> int:
        return 2 * await ctx.ask(TotalOf(sku=query.sku)) + len((await ctx.db.execute(select(sold.c.id))).all())

    @shop.handles(TotalOf)
    async def total_of(query: TotalOf, ctx: Context) -> int:
        return 21 + len((await ctx.db.execute(select(sold.c.id))).all())

    async def test(stage: Stage) -> None:
        await stage.run(shop)
        async with Client("desk", settings=stage.settings, transport=stage.transport) as client:
            assert await asyncio.gather(*(client.ask(TwiceOf(sku="a")) for _ in range(5))) == [42] * 5

    played(tmp_path, url, test, database_pool_size=1)


def test_a_query_that_asks_after_it_has_read_is_refused(tmp_path: Path, url: str | None) -> None:
    shop = Service("shop", tables=tables)

    @shop.handles(TotalOf)
    async def total_of(query: TotalOf, ctx: Context) -> int:
        await ctx.db.execute(select(sold.c.id))
        return await ctx.ask(PriceOf(sku=query.sku))

    async def test(stage: Stage) -> None:
        await stage.run(shop)
        async with Client("desk", settings=stage.settings, transport=stage.transport) as client:
            with pytest.raises(Failed, match="EP501"):
                await client.ask(TotalOf(sku="a"))

    played(tmp_path, url, test)


def test_a_service_without_a_database_asks_as_it_likes(tmp_path: Path) -> None:
    desk = Service("shop", database=False)

    @desk.handles(Sell)
    async def sell(command: Sell, ctx: Context) -> int:
        return await ctx.ask(PriceOf(sku=command.sku))

    async def test(stage: Stage) -> None:
        await stage.run(Prices().service)
        await stage.run(desk)
        assert (await stage.ask(Sell(sku="a"))).body == b"7"

    played(tmp_path, None, test)


def declared(**options: Any) -> None:
    def in_thread(event: Sold, ctx: SyncContext) -> None: ...

    async def on_loop(event: Sold, ctx: Context) -> None: ...

    Handlers[None]().on(Sold, transaction="late", **options)(in_thread if not options else on_loop)


@pytest.mark.parametrize("options", [{}, {"ordered": True}, {"batch": 2}])
def test_what_cannot_begin_late_is_refused_when_it_is_declared(options: dict[str, Any]) -> None:
    with pytest.raises(BadHandler, match='transaction="late" goes with'):
        declared(**options)
