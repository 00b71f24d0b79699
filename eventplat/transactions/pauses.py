"""Pauses: handlers that an operator has told to wait.

One row per paused handler; no row, and it runs. So a pause reaches every instance, also one that starts later, and ends
only when somebody resumes the handler. `service.pausing` makes it so in each process.

Next: service.pausing
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Table, Text, delete, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from eventplat.hashing import bucket_of
from eventplat.storage.tables import bucket, now_us, platform

pauses = Table(
    "eventplat_pause",
    platform,
    Column("handler", Text, primary_key=True),
    bucket(),
    Column("since_us", BigInteger, nullable=False),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Pause:
    """Since when, by whom and why a handler waits."""

    handler: str
    since_us: int
    by: str
    reason: str


async def pause(connection: AsyncConnection, handler: str, *, by: str, reason: str) -> bool:
    """Let `handler` wait; False where it does already, and the first word stands."""
    row = postgresql.insert(pauses).values(handler=handler, bucket=bucket_of(handler), since_us=now_us(), by=by, reason=reason)
    return (await connection.execute(row.on_conflict_do_nothing().returning(pauses.c.handler))).first() is not None


async def resume(connection: AsyncConnection, handler: str) -> bool:
    """Let `handler` go on; False where it was not paused."""
    gone = delete(pauses).where(pauses.c.handler == handler).returning(pauses.c.handler)
    return (await connection.execute(gone)).first() is not None


async def paused(connection: AsyncConnection) -> dict[str, Pause]:
    """The paused handlers, by name."""
    found = select(pauses.c.handler, pauses.c.since_us, pauses.c.by, pauses.c.reason)
    return {row.handler: Pause(row.handler, row.since_us, row.by, row.reason) for row in await connection.execute(found)}
