"""What operators need: errors that can be grouped, paused handlers, and the last tick of each periodic function."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, SmallInteger, Text

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("eventplat_pending", Column("error", Text, nullable=True))
    op.add_column("eventplat_pending", Column("place", Text, nullable=True))
    op.add_column("eventplat_pending", Column("failed_us", BigInteger, nullable=True))
    op.create_table(
        "eventplat_pause",
        Column("handler", Text, primary_key=True), Column("bucket", SmallInteger, nullable=False),
        Column("since_us", BigInteger, nullable=False), Column("by", Text, nullable=False), Column("reason", Text, nullable=False),
    )  # fmt: skip
    op.create_table(
        "eventplat_tick",
        Column("name", Text, primary_key=True), Column("bucket", SmallInteger, nullable=False),
        Column("last_us", BigInteger, nullable=False),
    )  # fmt: skip


def downgrade() -> None:
    op.drop_table("eventplat_tick")
    op.drop_table("eventplat_pause")
    for name in ("failed_us", "place", "error"):
        op.drop_column("eventplat_pending", name)
