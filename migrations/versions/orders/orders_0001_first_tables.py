"""The first tables of orders."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "orders_0001"
down_revision = None
branch_labels = ("orders",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "placed_order",
        sa.Column("order_id", sa.String(length=64), nullable=False),
        sa.Column("account_id", sa.String(length=64), nullable=False),
        sa.Column("country", sa.String(length=60), nullable=False),
        sa.Column("status", sa.String(length=12), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=True),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("placed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("order_id", name=op.f("pk_placed_order")),
    )
    op.create_index(op.f("ix_placed_order_account_id"), "placed_order", ["account_id"], unique=False)
    op.create_table(
        "order_line",
        sa.Column("order_id", sa.String(length=64), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("sku", sa.String(length=40), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("unit_price", sa.BigInteger(), nullable=False),
        sa.Column("refunded", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("refunded >= 0 AND refunded <= quantity", name=op.f("ck_order_line_refunded_within_quantity")),
        sa.ForeignKeyConstraint(["order_id"], ["placed_order.order_id"], name=op.f("fk_order_line_order_id")),
        sa.PrimaryKeyConstraint("order_id", "line", name=op.f("pk_order_line")),
    )
    op.create_table(
        "order_step",
        sa.Column("step_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("order_id", sa.String(length=64), nullable=False),
        sa.Column("what", sa.String(length=40), nullable=False),
        sa.Column("detail", sa.String(length=200), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["order_id"], ["placed_order.order_id"], name=op.f("fk_order_step_order_id")),
        sa.PrimaryKeyConstraint("step_id", name=op.f("pk_order_step")),
    )
    op.create_index(op.f("ix_order_step_order_id"), "order_step", ["order_id"], unique=False)
    op.create_table(
        "refund",
        sa.Column("order_id", sa.String(length=64), nullable=False),
        sa.Column("refund_id", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=12), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["order_id"], ["placed_order.order_id"], name=op.f("fk_refund_order_id")),
        sa.PrimaryKeyConstraint("order_id", "refund_id", name=op.f("pk_refund")),
    )
    op.create_table(
        "refund_line",
        sa.Column("order_id", sa.String(length=64), nullable=False),
        sa.Column("refund_id", sa.String(length=64), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["order_id", "line"], ["order_line.order_id", "order_line.line"], name="fk_refund_line_line"),
        sa.ForeignKeyConstraint(["order_id", "refund_id"], ["refund.order_id", "refund.refund_id"], name=op.f("fk_refund_line_order_id")),
        sa.PrimaryKeyConstraint("order_id", "refund_id", "line", name=op.f("pk_refund_line")),
    )


def downgrade() -> None:
    op.drop_table("refund_line")
    op.drop_table("refund")
    op.drop_table("order_step")
    op.drop_table("order_line")
    op.drop_table("placed_order")
