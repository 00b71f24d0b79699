"""Generated customers: skewed demand, scarce stock, some without credit, some who send it back. Pure.

The same seed gives the same customers, so that a run can be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from random import Random

COUNTRIES = ("United Kingdom", "France", "Germany", "Netherlands", "EIRE", "Spain")


@dataclass(frozen=True)
class PlannedItem:
    """An item of the range."""

    sku: str
    price: Decimal
    available: int


@dataclass(frozen=True)
class PlannedAccount:
    """A customer."""

    account_id: str
    balance: Decimal


@dataclass(frozen=True)
class PlannedOrder:
    """What a customer asks for, and whether it comes back."""

    order_id: str
    account_id: str
    country: str
    lines: tuple[tuple[str, int, Decimal], ...]   # sku, quantity, unit price
    is_sent_back: bool

    @property
    def total(self) -> Decimal:
        return sum((quantity * price for _, quantity, price in self.lines), Decimal(0))


@dataclass(frozen=True)
class Plan:
    """A whole day in the shop."""

    items: tuple[PlannedItem, ...]
    accounts: tuple[PlannedAccount, ...]
    orders: tuple[PlannedOrder, ...]


def generate(orders: int, *, seed: int, items: int = 40, accounts: int = 60, prefix: str = "") -> Plan:
    """A plan of `orders` orders; every identifier begins with `prefix`."""
    chance = Random(seed)  # noqa: S311 - repeatable on purpose
    shelf = tuple(
        PlannedItem(f"{prefix}SKU{n:03}", Decimal(chance.randrange(50, 5_000)) / 100, chance.randrange(20, 120))
        for n in range(items)
    )
    people = tuple(
        PlannedAccount(f"{prefix}A{n:03}", Decimal(0) if n % 6 == 5 else Decimal(chance.randrange(2_000, 60_000)))
        for n in range(accounts)
    )
    return Plan(shelf, people, tuple(_orders(orders, shelf, people, chance, prefix)))


def _orders(
    count: int, items: tuple[PlannedItem, ...], accounts: tuple[PlannedAccount, ...], chance: Random, prefix: str
) -> Iterator[PlannedOrder]:
    popularity = [1 / (rank + 1) for rank in range(len(items))]  # Zipf: the first item is wanted by nearly everybody
    for number in range(count):
        wanted = chance.choices(items, popularity, k=chance.choice((1, 1, 2, 3, 5, 8)))
        yield PlannedOrder(
            order_id=f"{prefix}O{number:05}",
            account_id=chance.choice(accounts).account_id,
            country=chance.choice(COUNTRIES),
            lines=tuple((item.sku, chance.randrange(1, 4), item.price) for item in wanted),
            is_sent_back=chance.random() < 0.1,
        )
