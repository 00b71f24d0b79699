"""Periodic functions: once per period, however many instances."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sqlalchemy import select

from eventplat.service.context import Context
from eventplat.service.service import Service
from eventplat.service.ticks import ticks
from tests.conformance.stage import Stage, until


def test_two_instances_run_a_tick_once_per_period_with_growing_tokens(tmp_path: Path) -> None:
    tokens: list[int] = []
    shop = Service("shop")

    @shop.every(seconds=0.1)
    async def sweep(ctx: Context) -> None:
        assert ctx.fencing_token is not None
        tokens.append(ctx.fencing_token)

    async def test() -> None:
        async with Stage(tmp_path, None) as stage:
            runner = await stage.run(shop)
            await stage.run(shop)
            await until(lambda: len(tokens) >= 6)
            (row,) = await stage.rows(runner, select(ticks))
        assert tokens == sorted(set(tokens))
        assert row.name == "shop.sweep"
        assert row.last_us in tokens

    asyncio.run(test())


def test_a_tick_that_failed_runs_again_within_its_period(tmp_path: Path) -> None:
    tokens: list[int | None] = []
    shop = Service("shop")

    @shop.every(hours=1)
    async def sweep(ctx: Context) -> None:
        tokens.append(ctx.fencing_token)
        if len(tokens) == 1:
            raise RuntimeError("once")

    async def test() -> None:
        async with Stage(tmp_path, None) as stage:
            await stage.run(shop)
            await until(lambda: len(tokens) == 2)
        assert tokens[0] == tokens[1]

    asyncio.run(test())
