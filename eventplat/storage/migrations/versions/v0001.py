"""Every table of the platform, as of its first release.

Types and partial indexes are those both databases know. What the rows mean stands in the files that own them.
"""

from __future__ import annotations

from typing import Any

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Integer, LargeBinary, SmallInteger, Text, Uuid, text

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _messages_in()
    _messages_out()
    _order()
    _sagas()
    _coordination()


def downgrade() -> None:
    for name in (
        "decision", "fence", "lease", "timer", "saga_step", "saga", "watermark", "sequence", "process",
        "event_log", "outbox", "pending", "inbox",
    ):
        op.drop_table(f"eventplat_{name}")


def _messages_in() -> None:
    op.create_table(
        "eventplat_inbox",
        _id("message_id"), _text("consumer", primary_key=True), _bucket(), _text("state"), _bytes("body_hash", nullable=True),
        _bytes("outcome", nullable=True), _us("settled_us"),
    )
    op.create_table(
        "eventplat_pending",
        _text("handler", primary_key=True), _id("message_id"), _bucket(), _text("state"), _us("due_us", nullable=True),
        Column("attempts", Integer, nullable=False), _text("exchange"), _text("routing_key"), _text("type"),
        _text("key", nullable=True), _text("source", nullable=True), _text("stream", nullable=True),
        _us("seq", nullable=True), _us("prev", nullable=True), _text("properties"), _bytes("body"), _text("errors"),
        _us("created_us"),
    )
    _index("pending_due", "pending", ["state", "due_us"])
    _index("pending_held", "pending", ["handler", "stream", "key", "seq"], where="state = 'held'")
    _index("pending_message", "pending", ["message_id"])


def _messages_out() -> None:
    op.create_table(
        "eventplat_outbox",
        _id("id"), _bucket(), _uuid("owner", nullable=True), _text("exchange"), _text("routing_key"),
        Column("mandatory", Boolean, nullable=False), _text("properties"), _bytes("body", nullable=True),
        _uuid("event_id", nullable=True), _us("due_us", nullable=True), _us("created_us"),
        Column("attempts", Integer, nullable=False),
    )
    _index("outbox_owner", "outbox", ["owner", "id"])
    _index("outbox_due", "outbox", ["due_us"], where="owner IS NULL")
    op.create_table(
        "eventplat_event_log",
        _id("id"), _bucket(), _text("type"), _text("key", nullable=True), _text("stream", nullable=True),
        _us("seq", nullable=True), _us("prev", nullable=True), _text("properties"), _bytes("body"), _us("created_us"),
        Column("unrouted", Boolean, nullable=False),
    )
    op.create_table("eventplat_process", _id("id"), _bucket(), _us("epoch"), _text("name"), _us("alive_until_us"))


def _order() -> None:
    op.create_table(
        "eventplat_sequence",
        _text("stream", primary_key=True), _text("key", primary_key=True), _bucket(), _us("last"), _us("prev", nullable=True),
    )
    op.create_table(
        "eventplat_watermark",
        _text("handler", primary_key=True), _text("source", primary_key=True), _text("stream", primary_key=True),
        _text("key", primary_key=True), _bucket(), _us("seq"),
    )


def _sagas() -> None:
    op.create_table(
        "eventplat_saga",
        _id("command_id"), _bucket(), _text("name"), _text("id"), Column("version", Integer, nullable=False), _text("state"),
        _text("type"), _bytes("body"), _uuid("correlation_id"), _text("reply_to", nullable=True), _text("grant", nullable=True),
        _us("started_us"), _us("deadline_us"), _us("cancelled_us", nullable=True), _us("cancelled_position", nullable=True),
        _us("ended_us", nullable=True), _text("outcome_type", nullable=True), _bytes("outcome", nullable=True),
        _text("problem", nullable=True), _us("revision"),
    )
    _index("saga_id", "saga", ["id", "name"], unique=True)
    _index("saga_open", "saga", ["state", "started_us"], where="ended_us IS NULL")
    op.create_table(
        "eventplat_saga_step",
        _id("saga_command"), Column("position", Integer, primary_key=True, autoincrement=False), _text("path"), _text("kind"), _bucket(),
        _uuid("command_id", nullable=True), _text("record"), _text("state"), _us("asked_us"), _us("settled_us", nullable=True),
        Column("settled_position", Integer, nullable=True), _text("outcome_type", nullable=True), _bytes("outcome", nullable=True),
    )
    _index("saga_step_command", "saga_step", ["command_id"], unique=True, where="command_id IS NOT NULL")
    _index("saga_step_path", "saga_step", ["saga_command", "path"], unique=True)
    op.create_table(
        "eventplat_timer",
        _id("id"), _bucket(), _us("due_us"), _text("kind"), _uuid("subject"), _text("position", nullable=True),
    )
    _index("timer_due", "timer", ["due_us"])
    _index("timer_subject", "timer", ["subject", "position"])


def _coordination() -> None:
    op.create_table(
        "eventplat_lease",
        _text("name", primary_key=True), _bucket(), _text("holder", nullable=True), _us("token"), _us("until_us"),
    )
    op.create_table("eventplat_fence", _text("name", primary_key=True), _bucket(), _us("token"))
    op.create_table("eventplat_decision", _text("gid", primary_key=True), _bucket(), _text("outcome"), _us("decided_us"))


def _id(name: str) -> Column[Any]:
    return Column(name, Uuid(as_uuid=False), primary_key=True)


def _uuid(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, Uuid(as_uuid=False), nullable=nullable)


def _text(name: str, *, nullable: bool = False, primary_key: bool = False) -> Column[Any]:
    return Column(name, Text, nullable=nullable, primary_key=primary_key)


def _bytes(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, LargeBinary, nullable=nullable)


def _us(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, BigInteger, nullable=nullable)


def _bucket() -> Column[Any]:
    return Column("bucket", SmallInteger, nullable=False)


def _index(name: str, table: str, columns: list[str], *, unique: bool = False, where: str | None = None) -> None:
    only: dict[str, Any] = {} if where is None else {"postgresql_where": text(where), "sqlite_where": text(where)}
    op.create_index(f"eventplat_{name}", f"eventplat_{table}", columns, unique=unique, **only)
