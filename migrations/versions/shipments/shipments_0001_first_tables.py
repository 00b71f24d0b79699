"""The first tables of shipments."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "shipments_0001"
down_revision = None
branch_labels = ("shipments",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "shipment",
        sa.Column("order_id", sa.String(length=64), nullable=False),
        sa.Column("tracking", sa.String(length=20), nullable=False),
        sa.Column("country", sa.String(length=60), nullable=False),
        sa.Column("units", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(length=12), nullable=False),
        sa.PrimaryKeyConstraint("order_id", name=op.f("pk_shipment")),
        sa.UniqueConstraint("tracking", name=op.f("uq_shipment_tracking")),
    )
    op.create_table(
        "scan",
        sa.Column("scan_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("order_id", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=12), nullable=False),
        sa.Column("place", sa.String(length=80), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["order_id"], ["shipment.order_id"], name=op.f("fk_scan_order_id")),
        sa.PrimaryKeyConstraint("scan_id", name=op.f("pk_scan")),
    )
    op.create_index(op.f("ix_scan_order_id"), "scan", ["order_id"], unique=False)


def downgrade() -> None:
    op.drop_table("scan")
    op.drop_table("shipment")
