"""Book: the orders, what became of each, and how it got there.

    opened → paid → completed
       └→ refusing → refused

The sagas write it through the local commands of `orders.steps`, in the transaction that records their step.

Next: orders.refunds
"""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import Row, insert, select, update

from eventplat import Context, Handlers, Rejected
from services.kernel.money import AMOUNT_MAX, text
from services.orders.lines import total
from services.orders.messages import Checkout, GetOrder, Order, OrderRefused, PlacedLine, PlacedRefund, PlaceOrder, SagaStep, Step
from services.orders.steps import CompleteOrder, ExplainRefusal, MarkPaid, Opened, OpenOrder, RefuseOrder
from services.orders.tables import line, placed, refund, step

handlers: Handlers[None] = Handlers()


@handlers.handles(OpenOrder)
async def open_order(command: OpenOrder, ctx: Context[None]) -> Opened:
    """Write the order into the book."""
    price = total(command.lines)
    if price > AMOUNT_MAX:
        raise Rejected("total_too_large", status=422, largest=text(AMOUNT_MAX))
    await ctx.db.execute(
        insert(placed).values(
            order_id=command.order_id,
            account_id=command.account_id,
            country=command.country,
            status="opened",
            total=price,
            placed_at=ctx.now,
        )
    )
    numbered = [
        {"order_id": command.order_id, "line": number, "refunded": 0, **each.model_dump()}
        for number, each in enumerate(command.lines, start=1)
    ]
    await ctx.db.execute(insert(line), numbered)
    await note(ctx, command.order_id, "opened", f"{len(command.lines)} lines, {text(price)} GBP")
    return Opened(total=price)


@handlers.handles(ExplainRefusal)
async def explain_refusal(command: ExplainRefusal, ctx: Context[None]) -> None:
    """Say why, before what was done is undone."""
    await _become(ctx, command.order_id, "refusing", reason=command.reason)
    await note(ctx, command.order_id, "refusing", command.reason)


@handlers.handles(RefuseOrder)
async def refuse_order(command: RefuseOrder, ctx: Context[None]) -> None:
    """The order stays in the book, as refused: everything else it had done is undone by now."""
    found = await find(ctx, command.order_id, lock=True)
    reason = found.reason or "cancelled"
    await _become(ctx, command.order_id, "refused", reason=reason)
    await note(ctx, command.order_id, "refused", reason)
    ctx.publish(OrderRefused(order_id=command.order_id, account_id=found.account_id, reason=reason))


@handlers.handles(MarkPaid)
async def mark_paid(command: MarkPaid, ctx: Context[None]) -> None:
    """Reserved and charged."""
    await _become(ctx, command.order_id, "paid")
    await note(ctx, command.order_id, "paid", f"charge {command.charge_id}")


@handlers.handles(CompleteOrder)
async def complete_order(command: CompleteOrder, ctx: Context[None]) -> None:
    """Everything is done."""
    await _become(ctx, command.order_id, "completed")
    await note(ctx, command.order_id, "completed", f"shipment {command.tracking}" if command.tracking else "nothing to ship")


@handlers.handles(GetOrder, http="GET /orders/{order_id}", requires="orders:read")
async def get_order(query: GetOrder, ctx: Context[None]) -> Order:
    """Read an order: its lines, its refunds and its history, and how the saga stands that fills it."""
    found = await find(ctx, query.order_id)
    lines = await ctx.db.execute(select(line).where(line.c.order_id == query.order_id).order_by(line.c.line))
    refunds = await ctx.db.execute(select(refund).where(refund.c.order_id == query.order_id).order_by(refund.c.refund_id))
    steps = await ctx.db.execute(select(step).where(step.c.order_id == query.order_id).order_by(step.c.step_id))
    return Order(
        order_id=found.order_id, account_id=found.account_id, country=found.country, status=found.status, reason=found.reason,
        total=found.total, placed_at=found.placed_at,
        lines=tuple(PlacedLine.model_validate(row, from_attributes=True) for row in lines),
        refunds=tuple(PlacedRefund.model_validate(row, from_attributes=True) for row in refunds),
        history=tuple(Step.model_validate(row, from_attributes=True) for row in steps),
        checkout=await _checkout(ctx, query.order_id),
    )  # fmt: skip


async def _checkout(ctx: Context[None], order_id: str) -> Checkout | None:
    saga = await ctx.saga(order_id, started_by=PlaceOrder)
    if saga is None:
        return None
    steps = tuple(
        SagaStep(what=_what(each.kind, each.type), outcome=each.outcome, asked_at=each.asked_at, settled_at=each.settled_at)
        for each in saga.steps
    )
    waits_for = tuple(_name(type_) for type_ in saga.waits_for)
    return Checkout.model_validate({"status": saga.status, "waits_for": waits_for, "problem": saga.problem, "steps": steps})


def _what(kind: str, type_: str) -> str:
    return _name(type_) if kind == "call" else f"{kind} {_name(type_)}".strip()


def _name(wire_type: str) -> str:
    return re.sub(r"\.v\d+$", "", wire_type)


async def find(ctx: Context[None], order_id: str, *, lock: bool = False) -> Row[Any]:
    """The order's row, locked where asked until the transaction ends.

    Raises:
        Rejected: "unknown_order".
    """
    query = select(placed).where(placed.c.order_id == order_id)
    found = (await ctx.db.execute(query.with_for_update() if lock else query)).one_or_none()
    if found is None:
        raise Rejected("unknown_order", status=404, order_id=order_id)
    return found


async def note(ctx: Context[None], order_id: str, what: str, detail: str) -> None:
    """Write one line of the order's history."""
    await ctx.db.execute(insert(step).values(order_id=order_id, what=what, detail=detail[:200], at=ctx.now))


async def _become(ctx: Context[None], order_id: str, status: str, **more: str) -> None:
    await ctx.db.execute(update(placed).where(placed.c.order_id == order_id).values(status=status, **more))
