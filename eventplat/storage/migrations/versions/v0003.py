"""Find the events that reached no queue without reading the whole log."""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_WHERE = text("unrouted")


def upgrade() -> None:
    op.create_index(
        "eventplat_event_log_unrouted", "eventplat_event_log", ["type"], postgresql_where=_WHERE, sqlite_where=_WHERE
    )


def downgrade() -> None:
    op.drop_index("eventplat_event_log_unrouted", "eventplat_event_log")
