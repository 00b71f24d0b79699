"""Lines: totals, what is taken from the shelves, and what a refund gives back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orders.lines import CannotRefund, merged, parts_of, total
from services.orders.messages import RefundLine
from services.stock.messages import StockLine


@dataclass(frozen=True)
class Line:
    line: int
    sku: str
    quantity: int
    unit_price: Decimal
    refunded: int = 0


SOLD = (
    Line(1, "LANTERN", 6, Decimal("3.39")),
    Line(2, "HEART", 6, Decimal("2.55")),
    Line(3, "LANTERN", 2, Decimal("2.95")),
)

BOOKS = st.lists(
    st.tuples(st.sampled_from("ABC"), st.integers(1, 9), st.integers(0, 99_999)), min_size=1, max_size=8
).map(lambda rows: [Line(n, sku, quantity, Decimal(price).scaleb(-3)) for n, (sku, quantity, price) in enumerate(rows, 1)])


def test_an_order_costs_its_own_prices_to_the_thousandth() -> None:
    lines = [Line(1, "A", 3, Decimal("0.125")), Line(2, "A", 1, Decimal("2.55"))]

    assert total(lines) == Decimal("2.925")


def test_the_same_item_on_two_lines_is_reserved_once_and_in_the_order_of_codes() -> None:
    assert merged(SOLD) == (StockLine(sku="HEART", quantity=6), StockLine(sku="LANTERN", quantity=8))


def test_a_refund_without_lines_is_all_that_is_left() -> None:
    parts = parts_of([replace(SOLD[0], refunded=2), SOLD[1], SOLD[2]], [])

    assert parts.quantities == {1: 4, 2: 6, 3: 2}
    assert parts.goods == (StockLine(sku="HEART", quantity=6), StockLine(sku="LANTERN", quantity=6))
    assert parts.amount == 4 * Decimal("3.39") + 6 * Decimal("2.55") + 2 * Decimal("2.95")
    assert parts.is_all


def test_a_part_is_refunded_at_the_price_of_its_own_line() -> None:
    parts = parts_of(SOLD, [RefundLine(line=3, quantity=1), RefundLine(line=3, quantity=1)])

    assert (parts.quantities, parts.amount, parts.is_all) == ({3: 2}, Decimal("5.90"), False)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ([RefundLine(line=4, quantity=1)], "unknown_line"),
        ([RefundLine(line=2, quantity=7)], "more_than_left"),
        ([RefundLine(line=2, quantity=4), RefundLine(line=2, quantity=3)], "more_than_left"),
    ],
)
def test_more_than_was_sold_is_never_refunded(wanted: list[RefundLine], reason: str) -> None:
    with pytest.raises(CannotRefund) as refused:
        parts_of(SOLD, wanted)

    assert refused.value.reason == reason


def test_an_order_that_is_refunded_already_has_nothing_left() -> None:
    with pytest.raises(CannotRefund, match="nothing_left"):
        parts_of([replace(line, refunded=line.quantity) for line in SOLD], [])


@given(book=BOOKS, data=st.data())
def test_partial_refunds_and_the_rest_add_up_to_the_order(book: list[Line], data: st.DataObject) -> None:
    first = data.draw(st.sampled_from(book))
    part = parts_of(book, [RefundLine(line=first.line, quantity=data.draw(st.integers(1, first.quantity)))])
    after = [replace(line, refunded=part.quantities.get(line.line, 0)) for line in book]
    rest = [] if part.is_all else [parts_of(after, [])]

    assert sum((parts.amount for parts in [part, *rest]), Decimal(0)) == total(book)
    goods = [line for parts in [part, *rest] for line in parts.goods]
    assert sum(line.quantity for line in goods) == sum(line.quantity for line in book)
    assert [part, *rest][-1].is_all
