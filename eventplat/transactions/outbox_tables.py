"""The tables of the outbox: rows to send, the log of events, and the last place in each key's order.

Next: transactions.outbox
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, Table, Text, text

from eventplat.storage.tables import UUID, bucket, platform

UNOWNED = text("owner IS NULL")
UNROUTED = text("unrouted")          # as text: compared with a value, SQLite does not find the index

outbox = Table(
    "eventplat_outbox",
    platform,
    Column("id", UUID, primary_key=True),
    bucket(),
    Column("owner", UUID, nullable=True),
    Column("exchange", Text, nullable=False),
    Column("routing_key", Text, nullable=False),
    Column("mandatory", Boolean, nullable=False),
    Column("properties", Text, nullable=False),
    Column("body", LargeBinary, nullable=True),
    Column("event_id", UUID, nullable=True),
    Column("due_us", BigInteger, nullable=True),
    Column("created_us", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Index("eventplat_outbox_owner", "owner", "id"),
    Index("eventplat_outbox_due", "due_us", postgresql_where=UNOWNED, sqlite_where=UNOWNED),
)

event_log = Table(
    "eventplat_event_log",
    platform,
    Column("id", UUID, primary_key=True),
    bucket(),
    Column("type", Text, nullable=False),
    Column("key", Text, nullable=True),
    Column("stream", Text, nullable=True),
    Column("seq", BigInteger, nullable=True),
    Column("prev", BigInteger, nullable=True),
    Column("properties", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("unrouted", Boolean, nullable=False, default=False),
    Index("eventplat_event_log_unrouted", "type", postgresql_where=UNROUTED, sqlite_where=UNROUTED),
)

sequence = Table(
    "eventplat_sequence",
    platform,
    Column("stream", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    bucket(),
    Column("last", BigInteger, nullable=False),
    Column("prev", BigInteger, nullable=True),     # `last` before the newest transaction: what its first event follows
)
