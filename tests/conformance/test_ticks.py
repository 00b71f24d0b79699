"""Periodic functions on both databases: once per tick in the whole cluster, and what was missed once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import select, update

from eventplat.service.context import Context
from eventplat.service.runner import Runner
from eventplat.service.service import Service
from eventplat.service.ticks import ticks
from tests.conformance.stage import Stage, until

WEEK_US = 7 * 86_400 * 1_000_000


@pytest.fixture(params=["sqlite", "postgresql"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    if request.param == "sqlite":
        return Stage(tmp_path, None)
    from tests.servers import fresh_database  # noqa: PLC0415 - starts a server, only when a test needs it

    return Stage(tmp_path, fresh_database())


async def last_of(stage: Stage, runner: Runner, name: str) -> int | None:
    rows = await stage.rows(runner, select(ticks.c.last_us).where(ticks.c.name == name))
    return rows[0].last_us if rows else None


def test_a_new_cron_does_not_run_and_a_week_that_was_missed_is_one_run_of_one_instance(stage: Stage) -> None:
    tokens: list[int | None] = []
    shop = Service("shop")

    @shop.cron("30 4 * * *", timezone="Europe/London")
    async def report(ctx: Context) -> None:
        tokens.append(ctx.fencing_token)

    async def test() -> None:
        async with stage:
            runner = await stage.run(shop)
            seen = await until(lambda: last_of(stage, runner, "shop.report"))
            assert tokens == []
            await stage.rows(runner, update(ticks).values(last_us=seen - WEEK_US))
            await stage.stop(runner)
            for _ in range(2):
                runner = await stage.run(shop)
            last = await until(lambda: last_of(stage, runner, "shop.report"))
            await until(lambda: tokens)
            assert seen - 26 * 3_600 * 1_000_000 < (await last_of(stage, runner, "shop.report") or 0) <= seen
            await stage.stop(runner)
            await stage.run(shop)
            assert len(tokens) == 1, f"{tokens}, {last}"

    asyncio.run(test())


def test_of_twenty_who_take_one_tick_at_once_one_has_it_and_nobody_an_older_one(stage: Stage) -> None:
    from eventplat.service.ticks import _move  # noqa: PLC0415 - the statement itself

    async def test() -> None:
        async with stage:
            runner = await stage.run(Service("shop"))

            async def take(tick_us: int) -> bool:
                async with runner.out.database.transaction() as connection:
                    return await _move(connection, "shop.sweep", tick_us)

            for tick_us in (10, 20):
                assert sum(await asyncio.gather(*(take(tick_us) for _ in range(20)))) == 1
            assert not await take(15)
            assert await last_of(stage, runner, "shop.sweep") == 20

    asyncio.run(test())
