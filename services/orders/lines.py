"""Lines: what an order costs, what it takes from the shelves, what a refund of it gives back. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from services.orders.messages import RefundLine
from services.stock.messages import StockLine


class Priced(Protocol):
    """A line of an order."""

    @property
    def sku(self) -> str: ...
    @property
    def quantity(self) -> int: ...
    @property
    def unit_price(self) -> Decimal: ...


class Sold(Priced, Protocol):
    """A line in the order book: numbered, some of it perhaps refunded."""

    @property
    def line(self) -> int: ...
    @property
    def refunded(self) -> int: ...


class CannotRefund(ValueError):
    """A refund asks for what is not there; `reason` and `line` go into the refusal."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason if line is None else f"{reason}: line {line}")
        self.reason, self.line = reason, line


@dataclass(frozen=True)
class Parts:
    """The parts of a refund: quantities by line number, goods by item, and the money."""

    quantities: dict[int, int]
    goods: tuple[StockLine, ...]
    amount: Decimal
    is_all: bool


def total(lines: Iterable[Priced]) -> Decimal:
    """What the lines cost, in pounds, exact."""
    return sum((line.quantity * line.unit_price for line in lines), Decimal(0))


def merged(lines: Iterable[Priced]) -> tuple[StockLine, ...]:
    """One line an item, in the order of their codes: what is reserved, and the order in which it is locked."""
    return _goods((line.sku, line.quantity) for line in lines)


def parts_of(sold: Sequence[Sold], wanted: Sequence[RefundLine]) -> Parts:
    """What a refund of `wanted` gives back; without any, of all that is left.

    Raises:
        CannotRefund: An unknown line, more than is left of one, or nothing at all.
    """
    by_number = {line.line: line for line in sold}
    quantities: Counter[int] = Counter()
    for each in wanted:
        quantities[each.line] += each.quantity
    if not wanted:
        quantities.update({line.line: line.quantity - line.refunded for line in sold if line.quantity > line.refunded})
    if not quantities:
        raise CannotRefund("nothing_left")
    for number, quantity in quantities.items():
        if number not in by_number:
            raise CannotRefund("unknown_line", number)
        if quantity > by_number[number].quantity - by_number[number].refunded:
            raise CannotRefund("more_than_left", number)
    return Parts(
        quantities=dict(sorted(quantities.items())),
        goods=_goods((by_number[number].sku, quantity) for number, quantity in quantities.items()),
        amount=sum((quantity * by_number[number].unit_price for number, quantity in quantities.items()), Decimal(0)),
        is_all=all(line.quantity == line.refunded + quantities[line.line] for line in sold),
    )


def _goods(pairs: Iterable[tuple[str, int]]) -> tuple[StockLine, ...]:
    quantities: Counter[str] = Counter()
    for sku, quantity in pairs:
        quantities[sku] += quantity
    return tuple(StockLine(sku=sku, quantity=quantity) for sku, quantity in sorted(quantities.items()))
