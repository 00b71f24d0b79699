"""Orders: the service that knows what a customer wanted and what became of it.

Next: orders.checkout, orders.refund
"""

from __future__ import annotations

from eventplat import Service
from services.orders import book, checkout, refund, refunds
from services.orders.tables import metadata

orders: Service[None] = Service("orders", tables=metadata)
orders.include(checkout.handlers, refund.handlers, book.handlers, refunds.handlers)
