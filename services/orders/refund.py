"""Refund: money first, then goods, of some lines or of all that is left.

    claim the quantities ─pivot→ give the money back → put the goods back → complete

The claim decides: quantities that are claimed were sold and not yet refunded, so neither payments nor stock can refuse
them, and what may have happened is repeated rather than undone. A refund that was half paid would make or lose money.

Next: orders.refunds
"""

from __future__ import annotations

from eventplat import Handlers, Route, Saga
from services.orders.messages import OrderRefunded, RefundOrder, RefundReceipt
from services.orders.steps import CompleteRefund, DropRefund, OpenRefund
from services.payments.messages import RefundPayment
from services.stock.messages import ReturnItems

handlers: Handlers[None] = Handlers()


@handlers.saga(RefundOrder, http=Route("POST /orders/{order_id}/refunds", status=201), requires="orders:write")
async def refund(order: RefundOrder, saga: Saga) -> RefundReceipt:
    """Refund an order, or some of its lines."""
    order_id, refund_id = order.order_id, order.refund_id
    plan = await saga.call(
        OpenRefund(order_id=order_id, refund_id=refund_id, lines=order.lines),
        undo=DropRefund(order_id=order_id, refund_id=refund_id),
    )
    saga.pivot()
    await saga.call(RefundPayment(account_id=plan.account_id, order_id=order_id, refund_id=refund_id, amount=plan.amount))
    await saga.call(ReturnItems(order_id=order_id, lines=plan.lines))
    await saga.call(CompleteRefund(order_id=order_id, refund_id=refund_id))
    saga.publish(
        OrderRefunded(order_id=order_id, account_id=plan.account_id, refund_id=refund_id, amount=plan.amount, is_all=plan.is_all)
    )
    return RefundReceipt(order_id=order_id, refund_id=refund_id, amount=plan.amount)
