"""Quantities: lines added up by item, and what is short. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from services.stock.messages import StockLine


def by_sku(lines: Iterable[StockLine]) -> dict[str, int]:
    """How many of each item, in the order of their codes; an item may stand on several lines."""
    wanted: Counter[str] = Counter()
    for line in lines:
        wanted[line.sku] += line.quantity
    return dict(sorted(wanted.items()))


def lacking(wanted: Mapping[str, int], available: Mapping[str, int]) -> list[dict[str, str | int]]:
    """The items of which more is wanted than there is, with both numbers."""
    return [
        {"sku": sku, "wanted": quantity, "available": available.get(sku, 0)}
        for sku, quantity in wanted.items()
        if quantity > available.get(sku, 0)
    ]
