"""Real invoices: a wholesaler's month, dirty as it is, as orders, refunds and stock corrections. Pure.

Every line of the file ends accepted or rejected with a reason, and the two add up to the file.

an invoice                          is an order; its lines keep their own prices, and may name an item twice
without a customer                  belongs to a guest account of its own
C… with negative quantities         is a refund of the customer's earlier purchases of that item at that price
… that nobody bought here           is rejected: "no_earlier_purchase"
negative without C, at price 0      is a stock correction
services (POST, DOT, M, …)          are sold without stock

Source: UCI Online Retail; Chen, Sain & Guo (2012).
"""

from __future__ import annotations

import csv
import gzip
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

SERVICES = frozenset({"POST", "DOT", "M", "C2", "D", "S", "BANK CHARGES", "AMAZONFEE", "B", "CRUK", "PADS", "m"})
GIFT = "gift_"


@dataclass(frozen=True)
class Line:
    """One line of the file."""

    invoice: str
    sku: str
    description: str
    quantity: int
    price: Decimal
    customer: str
    country: str
    is_rest: bool = False      # the rest of a line that is refunded from more than one purchase: counted once

    @property
    def money(self) -> Decimal:
        return self.quantity * self.price

    @property
    def is_service(self) -> bool:
        return self.sku in SERVICES or self.sku.startswith(GIFT)


@dataclass(frozen=True)
class Order:
    """An invoice that buys."""

    order_id: str
    account_id: str
    country: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Refund:
    """A part of a cancellation, of one earlier order: (line number there, quantity, the file's line)."""

    refund_id: str
    order_id: str
    lines: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Correction:
    """A line that only changes the stock."""

    key: str
    sku: str
    quantity: int
    reason: str


Job = Order | Refund | Correction


@dataclass
class _Purchase:
    """What is left of a line that somebody bought."""

    order_id: str
    number: int
    left: int


Bought = defaultdict[tuple[str, str, Decimal], list[_Purchase]]   # by account, item and price


@dataclass
class Month:
    """What the file asks for.

    Attributes:
        jobs: By customer, each in the file's order: customers are independent, one customer's jobs are not.
        lines: Which lines of the file a job stands for, with the quantity of each that it accepts, by job.
        rejected: Lines that are no job, with the reason.
    """

    lines: list[Line]
    jobs: dict[str, list[Job]] = field(default_factory=dict)
    of_job: dict[str, list[Line]] = field(default_factory=dict)
    rejected: list[tuple[Line, str]] = field(default_factory=list)
    stock: Counter[str] = field(default_factory=Counter)                      # what each item needs to begin with
    money: defaultdict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))  # what each account needs
    prices: dict[str, Decimal] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)


def read(path: Path) -> list[Line]:
    """The lines of the file, in its order."""
    with gzip.open(path, "rt", newline="") as file:
        return [
            Line(
                invoice=row["InvoiceNo"], sku=row["StockCode"].strip(), description=row["Description"].strip(),
                quantity=int(row["Quantity"]), price=Decimal(row["UnitPrice"]),
                customer=row["CustomerID"].removesuffix(".0"), country=row["Country"],
            )
            for row in csv.DictReader(file)
        ]  # fmt: skip


def plan(lines: list[Line]) -> Month:
    """What to ask the services, so that each line is accepted or rejected."""
    month = Month(lines)
    bought: Bought = defaultdict(list)
    for invoice, group in _by_invoice(lines).items():
        account = (group[0].customer and f"C{group[0].customer}") or f"G{invoice}"
        for line in group:
            month.prices.setdefault(line.sku, line.price)
            month.names.setdefault(line.sku, line.description)
        if invoice.startswith("C"):
            _cancel(month, account, invoice, group, bought)
            continue
        buying = []
        for number, line in enumerate(group):
            if line.quantity < 0:
                _correct(month, account, f"{invoice}-{number}", line)
            else:
                buying.append(line)
        if buying:
            _buy(month, account, invoice, buying, bought)
    return month


def _buy(month: Month, account: str, invoice: str, lines: list[Line], bought: Bought) -> None:
    month.jobs.setdefault(account, []).append(Order(invoice, account, lines[0].country, tuple(lines)))
    month.of_job[invoice] = lines
    for number, line in enumerate(lines, start=1):
        bought[account, line.sku, line.price].append(_Purchase(invoice, number, line.quantity))
        if not line.is_service:
            month.stock[line.sku] += line.quantity
        month.money[account] += line.money


def _correct(month: Month, account: str, key: str, line: Line) -> None:
    if line.price != 0:
        month.rejected.append((line, "negative_without_cancellation"))
    elif line.is_service:
        month.rejected.append((line, "service_has_no_stock"))
    else:
        month.jobs.setdefault(account, []).append(Correction(key, line.sku, line.quantity, line.description[:200] or "unspecified"))
        month.of_job[key] = [line]
        month.stock[line.sku] -= line.quantity


def _cancel(
    month: Month, account: str, invoice: str, lines: list[Line], bought: Bought
) -> None:
    """Each line takes its whole quantity from earlier purchases, newest first, or is rejected."""
    parts: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    accepted: defaultdict[str, list[Line]] = defaultdict(list)
    for line in lines:
        purchases = bought[account, line.sku, line.price]
        wanted = -line.quantity
        if wanted <= 0 or sum(purchase.left for purchase in purchases) < wanted:
            month.rejected.append((line, "no_earlier_purchase"))
            continue
        for purchase in reversed(purchases):
            taken = min(wanted, purchase.left)
            if taken:
                parts[purchase.order_id].append((purchase.number, taken))
                accepted[purchase.order_id].append(replace(line, quantity=-taken, is_rest=wanted + line.quantity != 0))
                purchase.left -= taken
                wanted -= taken
    for order, taken_lines in parts.items():
        refund_id = f"{invoice}-{order}"
        month.jobs.setdefault(account, []).append(Refund(refund_id, order, tuple(taken_lines)))
        month.of_job[refund_id] = accepted[order]


def _by_invoice(lines: Iterable[Line]) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line.invoice, []).append(line)
    return found
