"""A day in the shop: run a plan through the gateway and count what customers were told.

Customers come side by side, a bounded number at a time; one customer's requests come one after the other.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeVar

from services.demo.generate import Plan, PlannedOrder
from services.demo.retail import Correction, Job, Line, Month, Order, Refund
from services.demo.shop import Answer, Shop
from services.kernel.names import IMPORT_MAX

T = TypeVar("T")


@dataclass
class Told:
    """What the customers were told, by order or refund id."""

    orders: dict[str, Answer] = field(default_factory=dict)
    refunds: dict[str, Answer] = field(default_factory=dict)
    corrections: dict[str, Answer] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """Completed, refused and refunded."""
        return {
            "completed": sum(answer.is_accepted for answer in self.orders.values()),
            "refused": sum(not answer.is_accepted for answer in self.orders.values()),
            "refunded": sum(answer.is_accepted for answer in self.refunds.values()),
        }

    def reasons(self) -> Counter[str]:
        """Why orders were refused."""
        return Counter(answer.reason for answer in self.orders.values() if not answer.is_accepted)

    def seconds(self) -> list[float]:
        """How long each order took, shortest first."""
        return sorted(answer.seconds for answer in self.orders.values())


async def side_by_side(work: Iterable[Coroutine[Any, Any, T]], limit: int) -> list[T]:
    """The results of `work` in its order, at most `limit` at a time; the first failure ends them all."""
    gate = asyncio.Semaphore(limit)

    async def one(item: Coroutine[Any, Any, T]) -> T:
        async with gate:
            return await item

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(item)) for item in work]
    return [task.result() for task in tasks]


async def open_shop(shop: Shop, plan: Plan, *, at_once: int = 16) -> None:
    """Create the plan's items and accounts."""
    items = (shop.create_item(item.sku, price=f"{item.price:f}", available=item.available) for item in plan.items)
    accounts = (
        shop.open_account(account.account_id, holder=account.account_id, balance=f"{account.balance:f}") for account in plan.accounts
    )
    for answer in await side_by_side([*items, *accounts], at_once):
        if not answer.is_accepted:
            raise AssertionError(f"the shop could not be opened: {answer}")


async def trade(shop: Shop, plan: Plan, *, at_once: int = 16, on_order: Callable[[], None] = lambda: None) -> Told:
    """Place the plan's orders, and send back those that come back."""
    told = Told()

    async def buy(order: PlannedOrder) -> None:
        lines = [{"sku": sku, "quantity": quantity, "unit_price": f"{price:f}"} for sku, quantity, price in order.lines]
        answer = await shop.place_order(order.order_id, order.account_id, lines, country=order.country)
        told.orders[order.order_id] = answer
        if answer.is_accepted and order.is_sent_back:
            told.refunds[order.order_id] = await shop.refund(order.order_id, f"R-{order.order_id}")
        on_order()

    await side_by_side((buy(order) for order in plan.orders), at_once)
    return told


async def open_wholesaler(shop: Shop, month: Month) -> None:
    """Take in every item and account that the file needs, with what it needs to begin with."""
    items = [
        {
            "sku": sku, "price": f"{price:f}", "available": month.stock.get(sku, 0), "description": month.names[sku][:200],
            "is_stocked": sku in month.stock,
        }
        for sku, price in month.prices.items()
    ]  # fmt: skip
    await take_in(shop.import_items, items)
    await take_in(shop.import_accounts, [
        {"account_id": account, "holder": account, "balance": f"{month.money[account]:f}", "is_guest": account.startswith("G")}
        for account in month.jobs
    ])  # fmt: skip


async def take_in(send: Callable[[Sequence[Mapping[str, Any]]], Awaitable[Answer]], rows: Sequence[Mapping[str, Any]]) -> None:
    """Import `rows`, as many at a time as one request takes."""
    for start in range(0, len(rows), IMPORT_MAX):
        answer = await send(rows[start : start + IMPORT_MAX])
        if not answer.is_accepted:
            raise AssertionError(f"the shop could not be opened: {answer}")


@dataclass
class Ledger:
    """The file's lines, accepted and rejected, in quantity and money."""

    lines: int = 0
    quantity: int = 0
    money: Decimal = Decimal(0)

    def add(self, lines: Sequence[Line]) -> None:
        self.lines += sum(not line.is_rest for line in lines)
        self.quantity += sum(line.quantity for line in lines)
        self.money += sum((line.money for line in lines), Decimal(0))


@dataclass
class MonthTold:
    """What became of the file."""

    accepted: Ledger = field(default_factory=Ledger)
    rejected: Ledger = field(default_factory=Ledger)
    reasons: Counter[str] = field(default_factory=Counter)
    money_of: defaultdict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))   # told by the services
    told: Told = field(default_factory=Told)


async def feed(shop: Shop, month: Month, *, at_once: int = 16, on_job: Callable[[], None] = lambda: None) -> MonthTold:
    """Send the file, customer by customer in its order; every line is accepted or rejected with a reason."""
    result = MonthTold()

    async def serve(jobs: Sequence[Job]) -> None:
        for job in jobs:
            name, answer = await _ask(shop, job, result.told)
            lines = month.of_job[name]
            if answer.is_accepted:
                result.accepted.add(lines)
                result.money_of["orders" if isinstance(job, Order) else "refunds"] += _money(job, answer)
            else:
                result.rejected.add(lines)
                result.reasons[answer.reason] += sum(not line.is_rest for line in lines)
            on_job()

    await side_by_side((serve(jobs) for jobs in month.jobs.values()), at_once)
    for line, reason in month.rejected:
        result.rejected.add([line])
        result.reasons[reason] += 1
    return result


async def _ask(shop: Shop, job: Job, told: Told) -> tuple[str, Answer]:
    if isinstance(job, Order):
        lines = [{"sku": line.sku, "quantity": line.quantity, "unit_price": f"{line.price:f}"} for line in job.lines]
        told.orders[job.order_id] = await shop.place_order(job.order_id, job.account_id, lines, country=job.country)
        return job.order_id, told.orders[job.order_id]
    if isinstance(job, Refund):
        parts = [{"line": line, "quantity": quantity} for line, quantity in job.lines]
        told.refunds[job.refund_id] = await shop.refund(job.order_id, job.refund_id, parts)
        return job.refund_id, told.refunds[job.refund_id]
    told.corrections[job.key] = await shop.correct_stock(job.sku, job.quantity, reason=job.reason, key=job.key)
    return job.key, told.corrections[job.key]


def _money(job: Job, answer: Answer) -> Decimal:
    if isinstance(job, Correction):
        return Decimal(0)
    return Decimal(str(answer.body["total"])) if isinstance(job, Order) else -Decimal(str(answer.body["amount"]))

