"""Shelves: every change of stock goes through `move`, which writes the shelf and the book of movements together.

Order     rows are locked by `locked`, in the order of their codes, before anything is read from them: two orders
          over the same items wait for each other and never deadlock. SQLite has one writer, so nothing to lock.
Balance   what an order still holds is minus the sum of its movements: releasing twice releases nothing the second time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, bindparam, func, insert, select, update

from eventplat import Context, Rejected
from services.stock.messages import CreateItem
from services.stock.tables import item, movement

NAMED_MAX = 20  # items that a refusal lists


async def known(ctx: Context[None], skus: Collection[str]) -> list[str]:
    """Those of `skus` that are in the range."""
    return list((await ctx.db.execute(select(item.c.sku).where(item.c.sku.in_(sorted(skus))).order_by(item.c.sku))).scalars())


async def take_in(ctx: Context[None], items: Sequence[CreateItem]) -> None:
    """Put new items into the range, each with what is there of it."""
    in_order = sorted(items, key=lambda each: each.sku)  # as all rows are locked
    await ctx.db.execute(insert(item), [{**each.model_dump(), "available": 0} for each in in_order])
    await move(ctx, {each.sku: each.available for each in in_order if each.available}, kind="opening")


async def locked(ctx: Context[None], skus: Collection[str], *, unknown: int = 422) -> dict[str, Row[Any]]:
    """The rows of `skus`, locked in the order of their codes until the transaction ends.

    Raises:
        Rejected: "unknown_items", with the first of them and the status `unknown`: 404 where the item is what the URL names.
    """
    query = select(item).where(item.c.sku.in_(sorted(skus))).order_by(item.c.sku).with_for_update()
    found = {row.sku: row for row in await ctx.db.execute(query)}
    if missing := sorted(set(skus) - found.keys()):
        raise Rejected("unknown_items", status=unknown, skus=missing[:NAMED_MAX], count=len(missing))
    return found


async def move(ctx: Context[None], changes: Mapping[str, int], *, kind: str, order_id: str | None = None, note: str = "") -> None:
    """Add `changes` (signed, by code) to shelves that are locked, and write them into the book."""
    if not changes:
        return
    shelf = update(item).where(item.c.sku == bindparam("of")).values(available=item.c.available + bindparam("change"))
    await ctx.db.execute(shelf, [{"of": sku, "change": change} for sku, change in changes.items()])
    await ctx.db.execute(
        insert(movement),
        [
            {"sku": sku, "quantity": change, "kind": kind, "order_id": order_id, "note": note, "at": ctx.now}
            for sku, change in changes.items()
        ],
    )


async def held_by(ctx: Context[None], order_id: str) -> dict[str, int]:
    """What the order took and has not given back, by code."""
    held = -func.sum(movement.c.quantity)
    query = select(movement.c.sku, held.label("held")).where(movement.c.order_id == order_id).group_by(movement.c.sku)
    return {row.sku: int(row.held) for row in await ctx.db.execute(query) if row.held}
