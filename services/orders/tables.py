"""Tables of orders: the order book."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, ForeignKeyConstraint, Integer, String, Table

from services.kernel.columns import SERIAL, Moment, Thousandths, new_metadata

metadata = new_metadata()

placed = Table(
    "placed_order",
    metadata,
    Column("order_id", String(64), primary_key=True),
    Column("account_id", String(64), nullable=False, index=True),
    Column("country", String(60), nullable=False),
    Column("status", String(12), nullable=False),          # messages.Status
    Column("reason", String(200)),
    Column("total", Thousandths, nullable=False),
    Column("placed_at", Moment, nullable=False),
)

line = Table(
    "order_line",
    metadata,
    Column("order_id", String(64), ForeignKey(placed.c.order_id), primary_key=True),
    Column("line", Integer, primary_key=True),             # from 1, in the order in which they were sent
    Column("sku", String(40), nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("unit_price", Thousandths, nullable=False),
    Column("refunded", BigInteger, nullable=False),        # claimed by refunds that are open or completed
    CheckConstraint("refunded >= 0 AND refunded <= quantity", name="refunded_within_quantity"),
)

refund = Table(
    "refund",
    metadata,
    Column("order_id", String(64), ForeignKey(placed.c.order_id), primary_key=True),
    Column("refund_id", String(64), primary_key=True),
    Column("status", String(12), nullable=False),          # opened, dropped, completed
    Column("amount", Thousandths, nullable=False),
)

refund_line = Table(
    "refund_line",
    metadata,
    Column("order_id", String(64), primary_key=True),
    Column("refund_id", String(64), primary_key=True),
    Column("line", Integer, primary_key=True),
    Column("quantity", BigInteger, nullable=False),
    ForeignKeyConstraint(["order_id", "refund_id"], [refund.c.order_id, refund.c.refund_id]),
    ForeignKeyConstraint(["order_id", "line"], [line.c.order_id, line.c.line], name="fk_refund_line_line"),
)

step = Table(
    "order_step",
    metadata,
    Column("step_id", SERIAL, primary_key=True),
    Column("order_id", String(64), ForeignKey(placed.c.order_id), nullable=False, index=True),
    Column("what", String(40), nullable=False),
    Column("detail", String(200), nullable=False),
    Column("at", Moment, nullable=False),
)
