"""Stock: items, all-or-nothing reservations, returns and corrections. It never oversells.

Next: stock.shelves
"""

from __future__ import annotations

from sqlalchemy import func, select

from eventplat import Context, Rejected, Route, Service
from services.kernel.names import repeated
from services.stock.messages import (
    CorrectStock,
    CreateItem,
    GetItem,
    ImportedItems,
    ImportItems,
    Item,
    ReleaseStock,
    Reservation,
    ReserveStock,
    ReturnItems,
    StockCorrected,
    Stocktake,
    TakeStock,
)
from services.stock.quantities import by_sku, lacking
from services.stock.shelves import NAMED_MAX, held_by, known, locked, move, take_in
from services.stock.tables import item, metadata, movement

stock: Service[None] = Service("stock", tables=metadata)


@stock.handles(CreateItem, http=Route("POST /items", status=201), requires="stock:write")
async def create_item(command: CreateItem, ctx: Context[None]) -> Item:
    """Take an item into the range."""
    if await known(ctx, [command.sku]):
        raise Rejected("item_exists", sku=command.sku)
    if command.available and not command.is_stocked:
        raise Rejected("not_stocked", status=422, sku=command.sku)
    await take_in(ctx, [command])
    return Item(**command.model_dump())


@stock.handles(ImportItems, http=Route("POST /item-imports", status=201), requires="stock:write")
async def import_items(command: ImportItems, ctx: Context[None]) -> ImportedItems:
    """Take many items into the range: all of them, or none."""
    skus = [each.sku for each in command.items]
    if twice := repeated(skus):
        raise Rejected("item_twice", status=422, skus=twice[:NAMED_MAX], count=len(twice))
    if exist := await known(ctx, skus):
        raise Rejected("items_exist", skus=exist[:NAMED_MAX], count=len(exist))
    if without := sorted(each.sku for each in command.items if each.available and not each.is_stocked):
        raise Rejected("not_stocked", status=422, skus=without[:NAMED_MAX], count=len(without))
    await take_in(ctx, command.items)
    return ImportedItems(items=len(skus))


@stock.handles(GetItem, http="GET /items/{sku}", requires="stock:read")
async def get_item(query: GetItem, ctx: Context[None]) -> Item:
    """Read an item: description, list price, what is available."""
    found = (await ctx.db.execute(select(item).where(item.c.sku == query.sku))).one_or_none()
    if found is None:
        raise Rejected("unknown_item", status=404, sku=query.sku)
    return Item.model_validate(found, from_attributes=True)


@stock.handles(CorrectStock, http="POST /items/{sku}/corrections", requires="stock:write")
async def correct(command: CorrectStock, ctx: Context[None]) -> Item:
    """Add to a shelf, or write off from it, with the reason."""
    found = (await locked(ctx, [command.sku], unknown=404))[command.sku]
    if not found.is_stocked:
        raise Rejected("not_stocked", status=422, sku=command.sku)
    after = found.available + command.quantity
    if after < 0:
        raise Rejected("below_zero", sku=command.sku, available=found.available)
    await move(ctx, {command.sku: command.quantity}, kind="corrected", note=command.reason)
    ctx.publish(StockCorrected(sku=command.sku, quantity=command.quantity, reason=command.reason))
    return Item(sku=found.sku, description=found.description, price=found.price, is_stocked=True, available=after)


@stock.handles(ReserveStock, requires="stock:reserve")
async def reserve(command: ReserveStock, ctx: Context[None]) -> Reservation:
    """Put all lines of an order aside, or none. Services need no shelf."""
    wanted = by_sku(command.lines)
    found = await locked(ctx, wanted)
    goods = {sku: quantity for sku, quantity in wanted.items() if found[sku].is_stocked}
    if short := lacking(goods, {sku: found[sku].available for sku in goods}):
        raise Rejected("out_of_stock", short=short[:NAMED_MAX], count=len(short))
    await move(ctx, {sku: -quantity for sku, quantity in goods.items()}, kind="reserved", order_id=command.order_id)
    return Reservation(order_id=command.order_id, units=sum(goods.values()))


@stock.handles(ReleaseStock, requires="stock:reserve")
async def release(command: ReleaseStock, ctx: Context[None]) -> None:
    """Give back whatever the order still holds."""
    await locked(ctx, await held_by(ctx, command.order_id))
    held = await held_by(ctx, command.order_id)  # again, now that nobody else can change it
    await move(ctx, dict(sorted(held.items())), kind="released", order_id=command.order_id)


@stock.handles(ReturnItems, requires="stock:reserve")
async def take_back(command: ReturnItems, ctx: Context[None]) -> None:
    """Put refunded goods back on their shelves, at most what the order took."""
    wanted = by_sku(command.lines)
    found = await locked(ctx, wanted)
    goods = {sku: quantity for sku, quantity in wanted.items() if found[sku].is_stocked}
    if excess := lacking(goods, await held_by(ctx, command.order_id)):
        raise Rejected("never_taken", excess=excess[:NAMED_MAX])
    await move(ctx, goods, kind="returned", order_id=command.order_id)


@stock.handles(TakeStock, http="GET /stocktake", requires="stock:read")
async def take_stock(query: TakeStock, ctx: Context[None]) -> Stocktake:
    """Compare every shelf with the sum of its movements."""
    moved = func.coalesce(func.sum(movement.c.quantity), 0)
    each = (
        select(item.c.sku, item.c.available, moved.label("moved"))
        .outerjoin(movement, movement.c.sku == item.c.sku)
        .group_by(item.c.sku, item.c.available)
        .subquery()
    )
    sums = select(func.count(), func.sum(each.c.available), func.sum(each.c.moved)).select_from(each)
    items, available, total = (await ctx.db.execute(sums)).one()
    wrong = select(each.c.sku).where(each.c.available != each.c.moved).order_by(each.c.sku).limit(NAMED_MAX)
    disagreeing = tuple((await ctx.db.execute(wrong)).scalars())
    return Stocktake(items=items, available=int(available or 0), moved=int(total or 0), disagreeing=disagreeing)
