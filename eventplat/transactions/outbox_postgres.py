"""The outbox on PostgreSQL: places in their keys' order, events and rows in one statement.

A transaction's cost is its round trips. Where SQLite, in this process, takes a statement for each step, here arrays go in
once and the steps are parts of one statement, whose text is the same for any number of rows, so that it is planned once.

Order     keys are locked sorted by their bytes, as Python sorts them: two transactions never wait for each other crosswise.
          Of several events of one key the first follows what the last transaction left, each other the one before it.
Bytes     `seq` and `prev` are known to the statement alone, so it completes the properties of a row that takes a place:
          two headers more at the end of the headers, which stand at the end of the text.

Source    PostgreSQL, "WITH Queries", data-modifying statements; "INSERT", ON CONFLICT.

Next: transactions.outbox
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

COLUMNS = {
    "id": "uuid", "bucket": "smallint", "owner": "uuid", "exchange": "text", "routing_key": "text", "properties": "text",
    "body": "bytea", "event_id": "uuid", "after_us": "bigint", "created_us": "bigint", "type": "text", "key": "text",
    "stream": "text", "takes_turn": "boolean",
}  # fmt: skip
"""What a row is made of, and its type."""

_NOW = "(extract(epoch from clock_timestamp()) * 1000000)::bigint"
_ARRAYS = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in COLUMNS.items())
_INSERT = text(f"""
    WITH clock AS MATERIALIZED (SELECT {_NOW} AS us),
    m AS MATERIALIZED (SELECT * FROM unnest({_ARRAYS}) WITH ORDINALITY AS m ({", ".join(COLUMNS)}, place)),
    places AS (
        INSERT INTO eventplat_sequence AS s (stream, key, bucket, last, prev)
        SELECT m.stream, m.key, m.bucket, (SELECT us FROM clock) + count(*) - 1, NULL
        FROM m WHERE m.takes_turn
        GROUP BY m.stream, m.key, m.bucket
        ORDER BY m.stream COLLATE "C", m.key COLLATE "C"
        ON CONFLICT (stream, key) DO UPDATE SET
            prev = s.last,
            last = GREATEST(s.last + 1 - (SELECT us FROM clock), 0) + EXCLUDED.last
        RETURNING s.stream, s.key, s.last, s.prev
    ),
    numbered AS (
        SELECT m.*, places.last, places.prev AS before,
            count(*) OVER (PARTITION BY m.takes_turn, m.stream, m.key) AS count,
            row_number() OVER (PARTITION BY m.takes_turn, m.stream, m.key ORDER BY m.place) AS number
        FROM m LEFT JOIN places ON m.takes_turn AND places.stream = m.stream AND places.key = m.key
    ),
    placed AS (
        SELECT numbered.*, last - count + number AS seq, CASE WHEN number = 1 THEN before ELSE last - count + number - 1 END AS prev
        FROM numbered
    ),
    complete AS MATERIALIZED (
        SELECT placed.*, CASE WHEN takes_turn
            THEN left(properties, -2) || ',"seq":' || seq || coalesce(',"prev":' || prev, '') || '}}}}'
            ELSE properties END AS sent
        FROM placed
    ),
    logged AS (
        INSERT INTO eventplat_event_log (id, bucket, type, key, stream, seq, prev, properties, body, created_us, unrouted)
        SELECT id, bucket, type, key, stream, seq, prev, sent, body, created_us, false FROM complete WHERE event_id IS NOT NULL
        ON CONFLICT DO NOTHING
    ),
    written AS (
        INSERT INTO eventplat_outbox
            (id, bucket, owner, exchange, routing_key, mandatory, properties, body, event_id, due_us, created_us, attempts)
        SELECT id, bucket, owner, exchange, routing_key, true, sent, CASE WHEN event_id IS NULL THEN body END, event_id,
            (SELECT us FROM clock) + after_us, created_us, 0
        FROM complete
        ON CONFLICT DO NOTHING
        RETURNING id
    )
    SELECT complete.id, complete.seq, complete.prev FROM complete JOIN written ON written.id = complete.id
""")  # noqa: S608 - made of the names above


async def insert(connection: AsyncConnection, rows: Sequence[dict[str, Any]]) -> dict[str, tuple[int | None, int | None]]:
    """Write outbox rows, their events, and the order of those that take a place in it.

    Args:
        rows: 1 or more, each with the COLUMNS. The properties of one that takes a place are JSON that ends with its headers.

    Returns:
        By id, of the rows that were not there: `seq` and `prev`, None without a place.
    """
    found = await connection.execute(_INSERT, {name: [row[name] for row in rows] for name in COLUMNS})
    return {str(row.id): (row.seq, row.prev) for row in found}
