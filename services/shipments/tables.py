"""Tables of shipments: one shipment an order, and every scan of it."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, String, Table

from services.kernel.columns import SERIAL, Moment, new_metadata

metadata = new_metadata()

shipment = Table(
    "shipment",
    metadata,
    Column("order_id", String(64), primary_key=True),
    Column("tracking", String(20), nullable=False, unique=True),
    Column("country", String(60), nullable=False),
    Column("units", BigInteger, nullable=False),
    Column("status", String(12), nullable=False),
)

scan = Table(
    "scan",
    metadata,
    Column("scan_id", SERIAL, primary_key=True),
    Column("order_id", String(64), ForeignKey(shipment.c.order_id), nullable=False, index=True),
    Column("status", String(12), nullable=False),
    Column("place", String(80), nullable=False),
    Column("at", Moment, nullable=False),
)
