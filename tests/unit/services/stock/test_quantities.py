"""Quantities: merged, sorted, compared with what there is."""

from __future__ import annotations

from services.stock.messages import StockLine
from services.stock.quantities import by_sku, lacking


def test_lines_of_one_item_add_up_in_the_order_of_their_codes() -> None:
    lines = [StockLine(sku="B", quantity=2), StockLine(sku="A", quantity=1), StockLine(sku="B", quantity=3)]

    assert list(by_sku(lines).items()) == [("A", 1), ("B", 5)]


def test_codes_that_differ_only_in_case_are_two_items() -> None:
    assert by_sku([StockLine(sku="85123A", quantity=1), StockLine(sku="85123a", quantity=1)]) == {"85123A": 1, "85123a": 1}


def test_an_item_is_lacking_only_when_more_is_wanted_than_there_is() -> None:
    assert lacking({"A": 2, "B": 3, "C": 1}, {"A": 2, "B": 2}) == [
        {"sku": "B", "wanted": 3, "available": 2},
        {"sku": "C", "wanted": 1, "available": 0},
    ]
