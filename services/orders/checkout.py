"""Checkout: reserve, charge, ship. All of it, or none of it.

    open the order → reserve stock → charge the account ─pivot→ arrange the shipment, mark it paid → complete
         │ refuse        │ release        │ refund

A refusal undoes what is done, last first, before the client reads it: who is told "insufficient funds" finds the
stock on its shelves. After the pivot nothing is undone: the goods are paid, so the shipment is repeated until it is arranged.

Next: orders.book
"""

from __future__ import annotations

from eventplat import Failed, Handlers, Rejected, Route, Saga, TimedOut
from services.orders.lines import merged
from services.orders.messages import OrderPlaced, OrderReceipt, PlaceOrder
from services.orders.steps import CompleteOrder, ExplainRefusal, MarkPaid, OpenOrder, RefuseOrder
from services.payments.messages import ChargePayment, RefundCharge
from services.shipments.messages import ArrangeShipment
from services.stock.messages import ReleaseStock, ReserveStock

handlers: Handlers[None] = Handlers()


@handlers.saga(PlaceOrder, id="order_id", http=Route("POST /orders", status=201), requires="orders:write")
async def checkout(order: PlaceOrder, saga: Saga) -> OrderReceipt:
    """Place an order: reserve its stock, charge its account, arrange its shipment."""
    order_id, account_id = order.order_id, order.account_id
    opened = await saga.call(
        OpenOrder(order_id=order_id, account_id=account_id, country=order.country, lines=order.lines),
        undo=RefuseOrder(order_id=order_id),
    )
    try:
        reserved = await saga.call(
            ReserveStock(order_id=order_id, lines=merged(order.lines)),
            undo=ReleaseStock(order_id=order_id),
        )
        charge = await saga.call(
            ChargePayment(account_id=account_id, order_id=order_id, amount=opened.total),
            undo=RefundCharge(account_id=account_id, order_id=order_id),
        )
    except (Rejected, Failed, TimedOut) as no:
        await saga.call(ExplainRefusal(order_id=order_id, reason=_reason(no)))
        raise

    saga.pivot()
    paid = MarkPaid(order_id=order_id, charge_id=charge.charge_id)
    tracking: str | None = None
    if reserved.units:
        arrange = ArrangeShipment(order_id=order_id, country=order.country, units=reserved.units)
        _, shipment = await saga.gather(saga.call(paid), saga.call(arrange))
        tracking = shipment.tracking
    else:
        await saga.call(paid)
    await saga.call(CompleteOrder(order_id=order_id, tracking=tracking))
    saga.publish(OrderPlaced(order_id=order_id, account_id=account_id, total=opened.total))
    return OrderReceipt(
        order_id=order_id, status="completed", total=opened.total, charge_id=charge.charge_id, tracking=tracking
    )


def _reason(no: Rejected | Failed | TimedOut) -> str:
    if isinstance(no, Rejected):
        return no.reason[:200]
    return "timed_out" if isinstance(no, TimedOut) else "failed"
