"""Steps: what the sagas of orders say to their own order book. They run inside the saga's transaction.

Next: orders.book
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from eventplat import Command, Key
from services.kernel.money import Amount
from services.kernel.names import AccountId, Country, OrderId, RefundId
from services.orders.messages import OrderLines, RefundLines
from services.stock.messages import StockLine

Reason = Annotated[str, Field(min_length=1, max_length=200)]


class Opened(BaseModel):
    """An opened order."""

    total: Amount


class RefundPlan(BaseModel):
    """What a refund gives back to whom."""

    account_id: AccountId
    amount: Amount
    lines: tuple[StockLine, ...]
    is_all: bool


class OpenOrder(Command[Opened], name="orders.open-order"):
    """Write the order into the book."""

    order_id: Key[OrderId]
    account_id: AccountId
    country: Country
    lines: OrderLines


class ExplainRefusal(Command[None], name="orders.explain-refusal"):
    """Say why, before what was done is undone."""

    order_id: Key[OrderId]
    reason: Reason


class RefuseOrder(Command[None], name="orders.refuse-order"):
    """Undoes OpenOrder: the order stays in the book, as refused."""

    order_id: Key[OrderId]


class MarkPaid(Command[None], name="orders.mark-paid"):
    """Reserved and charged: from here on forward only."""

    order_id: Key[OrderId]
    charge_id: int


class CompleteOrder(Command[None], name="orders.complete-order"):
    """Everything is done."""

    order_id: Key[OrderId]
    tracking: str | None


class OpenRefund(Command[RefundPlan], name="orders.open-refund"):
    """Claim the quantities of a refund, so that no other refund gets them."""

    order_id: Key[OrderId]
    refund_id: RefundId
    lines: RefundLines


class DropRefund(Command[None], name="orders.drop-refund"):
    """Undoes OpenRefund."""

    order_id: Key[OrderId]
    refund_id: RefundId


class CompleteRefund(Command[None], name="orders.complete-refund"):
    """Money and goods are back."""

    order_id: Key[OrderId]
    refund_id: RefundId
