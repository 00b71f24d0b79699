"""Importing items: many in one request, all of them or none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal

import pytest

from eventplat import Rejected
from eventplat.testing.harness import Harness
from services.stock.messages import CreateItem, GetItem, ImportItems, TakeStock
from services.stock.service import stock


def new(sku: str, available: int = 0, *, is_stocked: bool = True) -> CreateItem:
    return CreateItem(sku=sku, price=Decimal("1.50"), available=available, is_stocked=is_stocked)


def run(test: Callable[[Harness], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with Harness(stock) as harness:
            await test(harness)

    asyncio.run(whole())


def test_all_are_taken_in_and_the_shelves_agree_with_the_book() -> None:
    async def test(harness: Harness) -> None:
        imported = await harness.ask(ImportItems(items=(new("B", 7), new("A", 3), new("POST", is_stocked=False))))

        assert imported.items == 3
        assert (await harness.ask(GetItem(sku="A"))).available == 3
        taken = await harness.ask(TakeStock())
        assert (taken.items, taken.available, taken.moved, taken.disagreeing) == (3, 10, 10, ())

    run(test)


@pytest.mark.parametrize(
    ("items", "reason", "facts"),
    [
        ((new("A"), new("THERE", 1)), "items_exist", {"skus": ["THERE"], "count": 1}),
        ((new("A"), new("B"), new("A", 1)), "item_twice", {"skus": ["A"], "count": 1}),
        ((new("A"), new("POST", 1, is_stocked=False)), "not_stocked", {"skus": ["POST"], "count": 1}),
    ],
    ids=["there already", "twice", "without a shelf"],
)
def test_one_that_cannot_be_taken_in_keeps_all_out(items: tuple[CreateItem, ...], reason: str, facts: dict[str, object]) -> None:
    async def test(harness: Harness) -> None:
        await harness.ask(new("THERE", 2))
        with pytest.raises(Rejected) as rejected:
            await harness.ask(ImportItems(items=items))

        assert (rejected.value.reason, rejected.value.facts) == (reason, facts)
        taken = await harness.ask(TakeStock())
        assert (taken.items, taken.moved) == (1, 2)

    run(test)
