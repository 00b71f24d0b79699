"""Notifications: a service in one file that only listens. Start it, and it is told; nobody else changes.

Each letter is written once: the inbox drops the copies of an event, and the row commits with the claim.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, DateTime, Integer, MetaData, String, Table, insert

from eventplat import Context, Service
from services.kernel.money import text
from services.orders.messages import OrderPlaced, OrderRefunded, OrderRefused

letter = Table(
    "letter",
    MetaData(),
    Column("letter_id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("account_id", String(64), nullable=False, index=True),
    Column("written", String(400), nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
)

notifications: Service[None] = Service("notifications", tables=letter.metadata)


@notifications.on(OrderPlaced)
async def thank(event: OrderPlaced, ctx: Context[None]) -> None:
    """Thank for the order."""
    await _write(ctx, event.account_id, f"Thank you for order {event.order_id} over {text(event.total)} GBP.")


@notifications.on(OrderRefused)
async def apologise(event: OrderRefused, ctx: Context[None]) -> None:
    """Say why there is no order."""
    await _write(ctx, event.account_id, f"We could not take order {event.order_id}: {event.reason.replace('_', ' ')}.")


@notifications.on(OrderRefunded)
async def confirm_refund(event: OrderRefunded, ctx: Context[None]) -> None:
    """Confirm a refund."""
    await _write(ctx, event.account_id, f"{text(event.amount)} GBP of order {event.order_id} are back on your account.")


async def _write(ctx: Context[None], account_id: str, written: str) -> None:
    await ctx.db.execute(insert(letter).values(account_id=account_id, written=written, at=ctx.now))
