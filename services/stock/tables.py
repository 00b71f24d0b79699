"""Tables of stock: an item says what is there, its movements say why.

Invariant: `item.available` is the sum of the item's movements, and never below zero.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, ForeignKey, String, Table

from services.kernel.columns import SERIAL, Moment, Thousandths, new_metadata

metadata = new_metadata()

item = Table(
    "item",
    metadata,
    Column("sku", String(40), primary_key=True),
    Column("description", String(200), nullable=False),
    Column("price", Thousandths, nullable=False),
    Column("is_stocked", Boolean, nullable=False),
    Column("available", BigInteger, CheckConstraint("available >= 0", name="never_oversold"), nullable=False),
)

movement = Table(
    "movement",
    metadata,
    Column("movement_id", SERIAL, primary_key=True),
    Column("sku", String(40), ForeignKey(item.c.sku), nullable=False, index=True),
    Column("quantity", BigInteger, nullable=False),       # signed: what was added to the shelf
    Column("kind", String(12), nullable=False),           # opening, corrected, reserved, released, returned
    Column("order_id", String(64), index=True),
    Column("note", String(200), nullable=False, default=""),
    Column("at", Moment, nullable=False),
)
