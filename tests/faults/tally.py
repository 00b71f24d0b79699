"""Tally: what was committed and what was applied, counted by plain SQL beside the platform."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from tests.faults.readings import HANDLERS
from tests.servers import PostgresServer

_KINDS = "(VALUES " + ", ".join(f"('{handler}', '{type_}')" for handler, type_ in HANDLERS.items()) + ") AS kinds (handler, type)"
_EVENTS = f"meter.eventplat_event_log AS event JOIN {_KINDS} USING (type)"

SAID = {
    "events are lost": f"""
        SELECT handler || ' ' || event.id FROM {_EVENTS}
        WHERE NOT EXISTS (SELECT 1 FROM ledger.applied a WHERE a.handler = kinds.handler AND a.event_id = event.id::text)""",
    "events were applied twice": """
        SELECT handler || ' ' || event_id FROM ledger.applied GROUP BY handler, event_id HAVING count(*) > 1""",
    "events were applied that nobody committed": f"""
        SELECT a.handler || ' ' || a.event_id FROM ledger.applied a
        WHERE NOT EXISTS (SELECT 1 FROM {_EVENTS} WHERE kinds.handler = a.handler AND event.id::text = a.event_id)""",
    "events were applied before an earlier one of their source": """
        SELECT event_id FROM (
            SELECT event_id, n, max(n) OVER (PARTITION BY source ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
            FROM ledger.applied WHERE handler = 'follow') AS ordered
        WHERE n < before""",
    "events have another order in the log than their source gave them": """
        SELECT id::text FROM (
            SELECT id, n, max(n) OVER (PARTITION BY key ORDER BY seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
            FROM (SELECT id, key, seq, (convert_from(body, 'UTF8')::json ->> 'n')::bigint AS n FROM meter.eventplat_event_log
                  WHERE type = 'meter.alarm.v1') AS alarm) AS ordered
        WHERE n < before""",
    "messages are dead or wait": "SELECT handler || ' ' || state FROM ledger.eventplat_pending",
    "rows were not sent": "SELECT id::text FROM meter.eventplat_outbox",
}


@dataclass(frozen=True)
class Tally:
    """The two services' tables in one database."""

    server: PostgresServer
    database: str

    async def is_subscribed(self) -> bool:
        """Whether the ledger has come as far as its watermark: its queues are bound before."""
        if await self._number("SELECT count(*) FROM pg_tables WHERE schemaname = 'ledger' AND tablename = 'eventplat_watermark'") == 0:
            return False
        return await self._number("SELECT count(*) FROM ledger.eventplat_watermark") > 0

    async def committed(self) -> int:
        """Events in the log."""
        if await self._number("SELECT count(*) FROM pg_tables WHERE schemaname = 'meter' AND tablename = 'eventplat_event_log'") == 0:
            return 0
        return await self._number("SELECT count(*) FROM meter.eventplat_event_log")

    async def applied(self) -> dict[str, int]:
        """Rows by handler."""
        printed = await self._sql("SELECT handler, count(*) FROM ledger.applied GROUP BY handler")
        found = dict(line.split("|") for line in printed.splitlines())
        return {handler: int(found.get(handler, 0)) for handler in HANDLERS}

    async def left(self) -> dict[str, int]:
        """What is still to do."""
        return {
            "to send": await self._number("SELECT count(*) FROM meter.eventplat_outbox"),
            "pending": await self._number("SELECT count(*) FROM ledger.eventplat_pending"),
            "to apply": await self.committed() - sum((await self.applied()).values()),
        }

    async def now_us(self) -> int:
        """The database's clock, as events are stamped by."""
        return await self._number("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")

    async def have_all_applied_after(self, moment_us: int) -> bool:
        """Whether each handler has applied an event that was committed after this moment."""
        return await self._number(f"""
            SELECT count(DISTINCT a.handler) FROM ledger.applied a
            JOIN meter.eventplat_event_log event ON event.id::text = a.event_id WHERE event.created_us > {moment_us}
        """) == len(HANDLERS)

    async def wrong(self) -> list[str]:
        """What must not be: nothing, or sentences that name the first few."""
        await self._sql("CREATE INDEX IF NOT EXISTS applied_event ON ledger.applied (event_id, handler)")
        found = {what: (await self._sql(statement)).splitlines() for what, statement in SAID.items()}
        return [f"{len(which):,} {what}: {', '.join(which[:5])}" for what, which in found.items() if which]

    async def _number(self, statement: str) -> int:
        return int(await self._sql(statement))

    async def _sql(self, statement: str) -> str:
        return await asyncio.to_thread(self.server.sql, statement, self.database)
