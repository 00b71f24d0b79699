"""Checkouts per second: an order by HTTP through the gateway, five services, RabbitMQ and PostgreSQL, and back.

Each checkout is an exactly-once saga of 3 commands to other services and 4 local steps; items are plentiful and everybody can pay, so
every checkout completes. All processes share this machine: the load, the gateway, one process per service, the broker
and the database; the table says what share of the processors each took.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from services.demo.day import side_by_side
from services.demo.shop import Shop
from tests.faults.stack import Stack
from tests.servers import PostgresServer, RabbitServer

ITEMS, ACCOUNTS = 50, 100


@dataclass(frozen=True)
class Round:
    """One round's figures."""

    per_second: float
    seconds: list[float]          # of each checkout, shortest first
    cpu: dict[str, float]         # processor seconds per second, by process


async def measure(*, seconds: float, rounds: int, at_once: int) -> None:
    """Start servers and processes, run the rounds, print the table."""
    rabbitmq, postgres = RabbitServer(), PostgresServer()
    rabbitmq.start()
    postgres.start()
    try:
        with tempfile.TemporaryDirectory(prefix="eventplat-bench-") as folder:
            environment = {
                "EVENTPLAT_PROFILE": "dev", "EVENTPLAT_LOG_LEVEL": "warning", "EVENTPLAT_BROKER_URL": rabbitmq.url,
                "EVENTPLAT_DATABASE_URL": postgres.create_database("shop"),
            }  # fmt: skip
            async with Stack("local", Path(folder), environment) as stack:
                measured = await _rounds(stack, {"rabbitmq": rabbitmq.pid, "postgresql": postgres.pid}, seconds, rounds, at_once)
        _print(measured, at_once)
    finally:
        for server in (rabbitmq, postgres):
            server.stop()
            server.remove()


async def _rounds(stack: Stack, servers: dict[str, int], seconds: float, rounds: int, at_once: int) -> list[Round]:
    limits = httpx.Limits(max_connections=at_once * 2)
    async with httpx.AsyncClient(base_url=stack.url, timeout=60, limits=limits) as http:
        shop = Shop(http)
        await _open(shop)
        await _load(shop, 5.0, at_once, "warm")  # pools, prepared statements and routes are not what is measured
        found = []
        for number in range(rounds):
            before = _cpu({**stack.pids(), **servers, "load": psutil.Process().pid})
            began = time.monotonic()
            answered = await _load(shop, seconds, at_once, f"r{number}")
            took = time.monotonic() - began
            after = _cpu({**stack.pids(), **servers, "load": psutil.Process().pid})
            found.append(Round(len(answered) / took, sorted(answered), {name: (after[name] - before[name]) / took for name in before}))
        return found


async def _open(shop: Shop) -> None:
    items = [shop.create_item(f"I{n}", price="1.00", available=1_000_000) for n in range(ITEMS)]
    accounts = [shop.open_account(f"A{n}", holder=f"A{n}", balance="9000000.00") for n in range(ACCOUNTS)]
    for answer in await side_by_side([*items, *accounts], 16):
        if not answer.is_accepted:
            raise RuntimeError(f"the shop could not be opened: {answer}")


async def _load(shop: Shop, seconds: float, at_once: int, name: str) -> list[float]:
    until, answered, chance = time.monotonic() + seconds, list[float](), Random(name)

    async def customer(number: int) -> None:
        count = 0
        while time.monotonic() < until:
            line = {"sku": f"I{chance.randrange(ITEMS)}", "quantity": 1, "unit_price": "1.00"}
            answer = await shop.place_order(f"{name}-{number}-{count}", f"A{chance.randrange(ACCOUNTS)}", [line])
            if not answer.is_accepted:
                raise RuntimeError(f"a checkout was refused: {answer}")
            answered.append(answer.seconds)
            count += 1

    async with asyncio.TaskGroup() as group:
        for number in range(at_once):
            group.create_task(customer(number))
    return answered


def _cpu(pids: dict[str, int]) -> dict[str, float]:
    found = {}
    for name, pid in pids.items():
        process = psutil.Process(pid)
        family = [process] if name == "load" else [process, *process.children(recursive=True)]
        found[name] = sum(sum(each.cpu_times()[:2]) for each in family)
    return found


def _print(rounds: list[Round], at_once: int) -> None:
    console = Console(highlight=False)
    rates = sorted(each.per_second for each in rounds)
    everything = sorted(second for each in rounds for second in each.seconds)
    shared = f"{psutil.cpu_count()} processors shared by all"
    console.print(f"checkouts through the gateway, {at_once} in flight, {len(rounds)} rounds, {shared}")
    console.print(f"  per second   median {statistics.median(rates):.1f}   least {rates[0]:.1f}   most {rates[-1]:.1f}")
    for name, part in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        console.print(f"  {name:<12} {everything[min(int(len(everything) * part), len(everything) - 1)] * 1_000:.0f} ms")
    table = Table("process", "share of a processor", box=None)
    for name in rounds[0].cpu:
        table.add_row(name, f"{statistics.median(each.cpu[name] for each in rounds):.2f}")
    console.print(table)
