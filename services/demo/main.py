"""The demo's program: open the shop, let the customers in, print what happened, check it.

    eventplat demo                              a few hundred generated orders
    eventplat demo --orders FILE.csv.gz         a wholesaler's month, line by line
    eventplat demo --url http://127.0.0.1:8000  against a running gateway, as after `docker compose up`
    eventplat demo --data FOLDER                leave the databases there, for questions of your own
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from secrets import token_hex
from time import monotonic
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from eventplat import Service
from eventplat.process import Process
from eventplat.settings import Settings, load
from services.demo import day, retail
from services.demo.checks import Check, money_is_whole, stock_is_whole, told_is_true
from services.demo.generate import generate
from services.demo.shop import Shop

AT_ONCE = 16
READY_S = 60.0


@dataclass(frozen=True)
class Options:
    """What to run: `count` generated orders, or the file `orders`; in this process, its data kept in `data`, or against `url`."""

    count: int = 300
    seed: int = 1
    orders: Path | None = None
    url: str | None = None
    token: str | None = None
    data: Path | None = None


async def main(services: Sequence[Service[Any]], options: Options) -> bool:
    """Run the demo; whether every check holds."""
    console = Console(highlight=False, soft_wrap=True)
    async with _shop(services, options, console) as shop:
        began = monotonic()
        checks = await (_month if options.orders else _day)(shop, options, console)
        console.print(f"\n{'took':<12}{monotonic() - began:.1f} s")
    console.print()
    for check in checks:
        console.print(f"{'[green]ok[/]  ' if check.holds else '[bold red]FAIL[/]'} {check.says:<50} {check.numbers}")
    holds = all(check.holds for check in checks)
    console.print("\nEvery check holds." if holds else "\n[bold red]A check failed.[/]")
    return holds


async def _day(shop: Shop, options: Options, console: Console) -> list[Check]:
    # a shop that is already open has items and orders of its own: ours get a prefix, and its totals are read before
    before = (await shop.get("/stocktake")).body, (await shop.get("/ledger")).body
    prefix = f"d{token_hex(3)}-" if before[0]["items"] or before[1]["accounts"] else ""
    plan = generate(options.count, seed=options.seed, prefix=prefix)
    await day.open_shop(shop, plan, at_once=AT_ONCE)
    with _progress(console) as progress:
        bar = progress.add_task("orders", total=len(plan.orders))
        told = await day.trade(shop, plan, at_once=AT_ONCE, on_order=lambda: progress.advance(bar))
    _print_day(console, told)
    kept = [order for order in plan.orders if told.orders[order.order_id].is_accepted and order.order_id not in told.refunds]
    stays = [order for order in plan.orders if (back := told.refunds.get(order.order_id)) is not None and not back.is_accepted]
    sold = sum(quantity for order in (*kept, *stays) for _, quantity, _ in order.lines)
    taken = sum((order.total for order in (*kept, *stays)), Decimal(0))
    opened = int(before[0]["available"]) + sum(item.available for item in plan.items)
    taken += Decimal(before[1]["charged"]) - Decimal(before[1]["refunded"])
    return [await stock_is_whole(shop, opened, sold), await money_is_whole(shop, taken), await told_is_true(shop, told)]


async def _month(shop: Shop, options: Options, console: Console) -> list[Check]:
    assert options.orders is not None  # noqa: S101 - chosen by it
    lines = retail.read(options.orders)
    month = retail.plan(lines)
    before = (await shop.get("/stocktake")).body, (await shop.get("/ledger")).body
    with _progress(console) as progress:
        opening = progress.add_task("items and accounts", total=None)
        await day.open_wholesaler(shop, month)
        progress.update(opening, total=1, completed=1)
        bar = progress.add_task("invoices", total=sum(len(jobs) for jobs in month.jobs.values()))
        result = await day.feed(shop, month, at_once=AT_ONCE, on_job=lambda: progress.advance(bar))
    file = day.Ledger()
    file.add(lines)
    _print_month(console, result, file)
    corrected = sum(line.quantity for key in result.told.corrections for line in month.of_job[key])
    sold = sum(
        line.quantity
        for name, accepted in month.of_job.items()
        for line in accepted
        if not line.is_service and name not in result.told.corrections
    )
    opened = sum(month.stock.values()) + int(before[0]["available"])
    taken = result.money_of["orders"] + result.money_of["refunds"] + Decimal(before[1]["charged"]) - Decimal(before[1]["refunded"])
    both = (result.accepted, result.rejected)
    return [
        Check("lines: accepted + rejected = file", sum(part.lines for part in both) == file.lines, f"{file.lines:,}"),
        Check("quantity: accepted + rejected = file", sum(part.quantity for part in both) == file.quantity, f"{file.quantity:,}"),
        Check("money: accepted + rejected = file", result.accepted.money + result.rejected.money == file.money, f"{file.money:,.2f}"),
        Check(
            "money: as the services told it",
            result.money_of["orders"] + result.money_of["refunds"] == result.accepted.money,
            f"{result.money_of['orders']:,.3f} - {-result.money_of['refunds']:,.3f} = {result.accepted.money:,.3f}",
        ),
        await stock_is_whole(shop, opened, sold, corrected),
        await money_is_whole(shop, taken),
        await told_is_true(shop, result.told),
    ]


@asynccontextmanager
async def _shop(services: Sequence[Service[Any]], options: Options, console: Console) -> AsyncIterator[Shop]:
    headers = {} if options.token is None else {"Authorization": f"Bearer {options.token}"}
    if options.url is not None:
        async with httpx.AsyncClient(base_url=options.url, headers=headers, timeout=30) as http:
            shop = Shop(http)
            await _ready(shop)
            console.print(f"the shop at {options.url}")
            yield shop
        return
    with _folder(options.data) as folder:
        settings = _settings(folder)
        process = Process(services, settings=settings)
        await process.start()
        try:
            console.print(f"gateway and {', '.join(service.name for service in services)} in one process at {process.url}")
            if options.data is not None and settings.is_embedded:
                console.print(f"one database a service in {folder}")
            async with httpx.AsyncClient(base_url=process.url, headers=headers, timeout=30) as http:
                shop = Shop(http)
                await _ready(shop)
                yield shop
        finally:
            await process.stop()


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    """Where the data goes: `kept`, or a place that is gone afterwards."""
    if kept is not None:
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="eventplat-demo-") as folder:
        yield Path(folder)


def _settings(folder: Path) -> Settings:
    settings = load(gateway_port=0)
    return load(gateway_port=0, data_dir=folder) if settings.is_embedded else settings


async def _ready(shop: Shop) -> None:
    """Wait until the gateway has found every service that the demo needs."""
    wanted = {"/orders", "/ledger", "/stocktake", "/shipments/{order_id}"}
    async with asyncio.timeout(READY_S):
        while True:
            try:
                found = await shop.http.get("/openapi.json")
                if found.is_success and wanted <= found.json()["paths"].keys():
                    return
            except httpx.TransportError:
                pass  # the gateway is still starting; the time limit ends this
            await asyncio.sleep(0.1)


def _print_day(console: Console, told: day.Told) -> None:
    counts, seconds = told.counts(), told.seconds()
    console.print()
    for name, count in counts.items():
        reasons = ", ".join(f"{reason} {times}" for reason, times in told.reasons().most_common()) if name == "refused" else ""
        console.print(f"{name:<12}{count:>5}  {reasons}".rstrip())
    console.print(f"{'p50':<12}{_at(seconds, 0.5) * 1_000:>5.0f} ms\n{'p95':<12}{_at(seconds, 0.95) * 1_000:>5.0f} ms")


def _print_month(console: Console, result: day.MonthTold, file: day.Ledger) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("", "lines", "quantity", "GBP"):
        table.add_column(column, justify="left" if not column else "right")
    for name, part in (("accepted", result.accepted), ("rejected", result.rejected), ("file", file)):
        table.add_row(name, f"{part.lines:,}", f"{part.quantity:,}", f"{part.money:,.2f}")
    console.print()
    console.print(table)
    for reason, count in result.reasons.most_common():
        console.print(f"  rejected: {reason}  {count:,} lines")


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


def _at(seconds: Sequence[float], part: float) -> float:
    return seconds[min(int(len(seconds) * part), len(seconds) - 1)] if seconds else 0.0
