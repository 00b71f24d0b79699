"""eventplat draining: the relay adopts a dead process's events, publishes them, deletes them."""

from __future__ import annotations

import asyncio
from random import SystemRandom

import asyncpg

from benchmarks.ours.shop import SERVICE, Taken, opened, run, sender, settings
from benchmarks.program import Job, Meter, job
from eventplat.clock import SystemClock
from eventplat.lifecycle import spare_the_collector
from eventplat.service.outgoing import Outgoings
from eventplat.storage.migrate import upgrade
from eventplat.transactions import outbox

DEAD = "01890a5d-ac96-774b-bcce-b302099a8057"
ROWS = 2_000


async def main(given: Job) -> None:
    transport, meter = await opened(given.amqp), Meter(given)
    out = Outgoings(SERVICE, settings(given), transport, owners={}, clock=SystemClock(), chance=SystemRandom())
    await upgrade(out.database)
    ids = await _fill(out, given.total)
    connection = await asyncpg.connect(given.postgres)
    await connection.execute("ANALYZE bench.eventplat_outbox, bench.eventplat_event_log")
    spare_the_collector()
    await out.start()
    if given.warm:
        await _gone(connection, ids[given.warm - 1])
        meter.tick(given.warm)
    await _gone(connection, ids[-1])
    while await connection.fetchval("SELECT EXISTS (SELECT 1 FROM bench.eventplat_outbox)"):
        await asyncio.sleep(0.001)
    meter.tick(given.count)
    await connection.close()
    await out.stop()
    await transport.close()
    meter.report()


async def _gone(connection: asyncpg.Connection, id_: str) -> None:
    """Return when this row is deleted: rows leave in the order of their ids, and counting those left would be half the work."""
    while await connection.fetchval("SELECT EXISTS (SELECT 1 FROM bench.eventplat_outbox WHERE id = $1)", id_):
        await asyncio.sleep(0.002)


async def _fill(out: Outgoings, count: int) -> list[str]:
    """As many rows of a dead process; returns their ids, sorted."""
    envelopes, note, ids = sender(), "x" * 460, list[str]()
    for start in range(0, count, ROWS):
        events = [Taken(order_id=f"{number:08}{note}", quantity=1) for number in range(start, min(start + ROWS, count))]
        letters = [envelopes.letter(event, cause=None) for event in events]
        async with out.database.transaction() as connection:
            await outbox.append(connection, letters, DEAD)
        ids += [letter.envelope.id for letter in letters]
    return sorted(ids)


if __name__ == "__main__":
    run(main(job()))
