"""The first tables of stock."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "stock_0001"
down_revision = None
branch_labels = ("stock",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "item",
        sa.Column("sku", sa.String(length=40), nullable=False),
        sa.Column("description", sa.String(length=200), nullable=False),
        sa.Column("price", sa.BigInteger(), nullable=False),
        sa.Column("is_stocked", sa.Boolean(), nullable=False),
        sa.Column("available", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("available >= 0", name=op.f("ck_item_never_oversold")),
        sa.PrimaryKeyConstraint("sku", name=op.f("pk_item")),
    )
    op.create_table(
        "movement",
        sa.Column("movement_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sku", sa.String(length=40), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=12), nullable=False),
        sa.Column("order_id", sa.String(length=64), nullable=True),
        sa.Column("note", sa.String(length=200), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["sku"], ["item.sku"], name=op.f("fk_movement_sku")),
        sa.PrimaryKeyConstraint("movement_id", name=op.f("pk_movement")),
    )
    op.create_index(op.f("ix_movement_order_id"), "movement", ["order_id"], unique=False)
    op.create_index(op.f("ix_movement_sku"), "movement", ["sku"], unique=False)


def downgrade() -> None:
    op.drop_table("movement")
    op.drop_table("item")
