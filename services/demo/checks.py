"""Checks: what must be true of stock, money and orders when the last answer has arrived, asked through the gateway.

Each check says its numbers, so that a reader can add them up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from services.demo.day import Told, side_by_side
from services.demo.shop import Shop


@dataclass(frozen=True)
class Check:
    """One statement and whether it holds."""

    says: str
    holds: bool
    numbers: str


async def stock_is_whole(shop: Shop, opened_with: int, sold: int, corrected: int = 0) -> Check:
    """Shelves agree with their movements, and nothing appeared or vanished."""
    taken = (await shop.get("/stocktake")).body
    left = int(taken["available"])
    holds = not taken["disagreeing"] and left == int(taken["moved"]) and left == opened_with - sold + corrected
    opened = f"{opened_with:,} {corrected:+,}" if corrected else f"{opened_with:,}"
    return Check("stock: opened with = left + sold", holds, f"{opened} = {left:,} + {sold:,}")


async def money_is_whole(shop: Shop, taken: Decimal) -> Check:
    """Accounts agree with their entries, and what they paid is what the orders cost."""
    ledger = (await shop.get("/ledger")).body
    deposited, balances = Decimal(ledger["deposited"]), Decimal(ledger["balances"])
    charged, refunded = Decimal(ledger["charged"]), Decimal(ledger["refunded"])
    holds = not ledger["disagreeing"] and deposited == balances + charged - refunded and charged - refunded == taken
    numbers = f"{deposited:,.2f} = {balances:,.2f} + {charged:,.2f} - {refunded:,.2f}"
    return Check("money: deposited = balances + charged - refunded", holds, numbers)


async def told_is_true(shop: Shop, told: Told, *, at_once: int = 16) -> Check:
    """What each client was told is what the order book says."""
    ids = list(told.orders)
    books = await side_by_side((shop.get(f"/orders/{order_id}") for order_id in ids), at_once)
    wrong = [
        order_id
        for order_id, book in zip(ids, books, strict=True)
        if book.body.get("status") != ("completed" if told.orders[order_id].is_accepted else "refused")
        and not (book.status == 404 and not told.orders[order_id].is_accepted)
    ]
    return Check("orders: each client was told the truth", not wrong, f"{len(ids) - len(wrong):,} of {len(ids):,}" + _named(wrong))


def _named(ids: Iterable[str]) -> str:
    first = list(ids)[:5]
    return f"; not {', '.join(first)}" if first else ""
