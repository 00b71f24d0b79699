"""Messages of orders: place, read, refund, and what the others may subscribe to.

Next: orders.checkout
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from eventplat import Command, Event, Key, Query
from services.kernel.money import Amount
from services.kernel.names import LINES_MAX, AccountId, Country, OrderId, Quantity, RefundId, Sku

Status = Literal["opened", "refusing", "refused", "paid", "completed"]
LineNumber = Annotated[int, Field(ge=1, le=LINES_MAX)]


class OrderLine(BaseModel):
    """So many of an item at the price agreed for this order; the same item may stand on several lines."""

    model_config = ConfigDict(frozen=True)

    sku: Sku
    quantity: Quantity
    unit_price: Amount


class RefundLine(BaseModel):
    """So many of a line, by its number in the order."""

    model_config = ConfigDict(frozen=True)

    line: LineNumber
    quantity: Quantity


OrderLines = Annotated[tuple[OrderLine, ...], Field(min_length=1, max_length=LINES_MAX)]
RefundLines = Annotated[tuple[RefundLine, ...], Field(max_length=LINES_MAX)]


class OrderReceipt(BaseModel):
    """The answer to a placed order."""

    order_id: OrderId
    status: Status
    total: Amount
    charge_id: int
    tracking: str | None  # None where there is nothing to ship


class RefundReceipt(BaseModel):
    """The answer to a refund."""

    order_id: OrderId
    refund_id: RefundId
    amount: Amount


class PlacedLine(BaseModel):
    """A line of an order, and how much of it was refunded."""

    line: LineNumber
    sku: Sku
    quantity: Quantity
    unit_price: Amount
    refunded: int


class PlacedRefund(BaseModel):
    """A refund of an order."""

    refund_id: RefundId
    status: Literal["opened", "dropped", "completed"]
    amount: Amount


class Step(BaseModel):
    """One thing that happened to an order."""

    at: datetime
    what: str
    detail: str


class SagaStep(BaseModel):
    """One step of the saga that fills an order."""

    what: str                  # as "stock.reserve-stock", "undo stock.release-stock", "pivot"
    outcome: str | None        # None while it waits for its answer, and where none is awaited
    asked_at: datetime
    settled_at: datetime | None


class Checkout(BaseModel):
    """The saga that fills an order."""

    status: Literal["running", "compensating", "completed", "compensated", "operator"]
    waits_for: tuple[str, ...] # the messages that have no answer yet
    problem: str | None        # why it stands and waits for an operator
    steps: tuple[SagaStep, ...]


class Order(BaseModel):
    """An order as it stands, and how it got there."""

    order_id: OrderId
    account_id: AccountId
    country: Country
    status: Status
    reason: str | None  # why it was refused
    total: Amount
    placed_at: datetime
    lines: tuple[PlacedLine, ...]
    refunds: tuple[PlacedRefund, ...]
    history: tuple[Step, ...]
    checkout: Checkout | None  # None once the saga is no longer kept


class PlaceOrder(Command[OrderReceipt], name="orders.place-order"):
    """Buy 1 to 1,000 lines, all of them or nothing. One order id is one order, however often it is sent."""

    order_id: Key[OrderId]
    account_id: AccountId
    country: Country = "United Kingdom"
    lines: OrderLines


class RefundOrder(Command[RefundReceipt], name="orders.refund-order"):
    """Give money back and put goods back: of these lines, or, without any, of all that is left."""

    order_id: Key[OrderId]
    refund_id: RefundId
    lines: RefundLines = ()


class GetOrder(Query[Order], name="orders.get-order"):
    """One order."""

    order_id: Key[OrderId]


class OrderPlaced(Event, name="orders.order-placed"):
    """An order was reserved and paid."""

    order_id: Key[OrderId]
    account_id: AccountId
    total: Amount


class OrderRefused(Event, name="orders.order-refused"):
    """An order did not come through; what it had taken was given back."""

    order_id: Key[OrderId]
    account_id: AccountId
    reason: str


class OrderRefunded(Event, name="orders.order-refunded"):
    """Money and goods of an order were given back."""

    order_id: Key[OrderId]
    account_id: AccountId
    refund_id: RefundId
    amount: Amount
    is_all: bool  # nothing of the order remains sold
