"""Refunds in the book: quantities are claimed when a refund is opened, so that two refunds never give back the same goods."""

from __future__ import annotations

from sqlalchemy import bindparam, insert, select, update

from eventplat import Context, Handlers, Rejected
from services.kernel.money import text
from services.orders.book import find, note
from services.orders.lines import CannotRefund, parts_of
from services.orders.steps import CompleteRefund, DropRefund, OpenRefund, RefundPlan
from services.orders.tables import line, refund, refund_line

handlers: Handlers[None] = Handlers()


@handlers.handles(OpenRefund)
async def open_refund(command: OpenRefund, ctx: Context[None]) -> RefundPlan:
    """Claim what is to be given back, and say what it comes to."""
    order_id, refund_id = command.order_id, command.refund_id
    found = await find(ctx, order_id, lock=True)
    if found.status != "completed":
        raise Rejected("not_completed", order_id=order_id, status=found.status)
    known = select(refund.c.refund_id).where(refund.c.order_id == order_id, refund.c.refund_id == refund_id)
    if (await ctx.db.execute(known)).one_or_none() is not None:
        raise Rejected("refund_exists", order_id=order_id, refund_id=refund_id)
    sold = (await ctx.db.execute(select(line).where(line.c.order_id == order_id).order_by(line.c.line))).all()
    try:
        parts = parts_of(sold, command.lines)
    except CannotRefund as no:
        raise Rejected(no.reason, order_id=order_id, line=no.line) from no
    await ctx.db.execute(insert(refund).values(order_id=order_id, refund_id=refund_id, status="opened", amount=parts.amount))
    claimed = [
        {"order_id": order_id, "refund_id": refund_id, "line": number, "quantity": quantity}
        for number, quantity in parts.quantities.items()
    ]
    await ctx.db.execute(insert(refund_line), claimed)
    await _claim(ctx, order_id, parts.quantities)
    await note(ctx, order_id, "refund opened", f"{refund_id}: {text(parts.amount)} GBP")
    return RefundPlan(account_id=found.account_id, amount=parts.amount, lines=parts.goods, is_all=parts.is_all)


@handlers.handles(DropRefund)
async def drop_refund(command: DropRefund, ctx: Context[None]) -> None:
    """Give the claimed quantities free again."""
    await find(ctx, command.order_id, lock=True)
    mine = select(refund_line).where(refund_line.c.order_id == command.order_id, refund_line.c.refund_id == command.refund_id)
    claimed = {row.line: -row.quantity for row in await ctx.db.execute(mine)}
    await _claim(ctx, command.order_id, claimed)
    await _become(ctx, command.order_id, command.refund_id, "dropped")


@handlers.handles(CompleteRefund)
async def complete_refund(command: CompleteRefund, ctx: Context[None]) -> None:
    """Money and goods are back."""
    await _become(ctx, command.order_id, command.refund_id, "completed")


async def _claim(ctx: Context[None], order_id: str, quantities: dict[int, int]) -> None:
    claim = (
        update(line)
        .where(line.c.order_id == order_id, line.c.line == bindparam("number"))
        .values(refunded=line.c.refunded + bindparam("change"))
    )
    await ctx.db.execute(claim, [{"number": number, "change": quantity} for number, quantity in quantities.items()])


async def _become(ctx: Context[None], order_id: str, refund_id: str, status: str) -> None:
    mine = update(refund).where(refund.c.order_id == order_id, refund.c.refund_id == refund_id)
    await ctx.db.execute(mine.values(status=status))
    await note(ctx, order_id, f"refund {status}", refund_id)
