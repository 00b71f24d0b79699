"""eventplat draining: the relay adopts a dead process's events, publishes them, deletes them."""

from __future__ import annotations

import asyncio
from random import SystemRandom

import asyncpg

from benchmarks.ours.shop import SERVICE, Taken, opened, run, sender, settings
from benchmarks.program import Job, Meter, job
from eventplat.clock import SystemClock
from eventplat.service.outgoing import Outgoings
from eventplat.storage.migrate import upgrade
from eventplat.transactions import outbox

DEAD = "01890a5d-ac96-774b-bcce-b302099a8057"
ROWS = 2_000


async def main(given: Job) -> None:
    transport, meter = await opened(given.amqp), Meter(given)
    out = Outgoings(SERVICE, settings(given), transport, owners={}, clock=SystemClock(), chance=SystemRandom())
    await upgrade(out.database)
    await _fill(out, given.total)
    connection = await asyncpg.connect(given.postgres)
    await connection.execute("ANALYZE bench.eventplat_outbox, bench.eventplat_event_log")
    await out.start()
    while meter.done < given.total:
        await asyncio.sleep(0.005)
        left = await connection.fetchval("SELECT count(*) FROM bench.eventplat_outbox")
        meter.tick(given.total - left - meter.done)
    await connection.close()
    await out.stop()
    await transport.close()
    meter.report()


async def _fill(out: Outgoings, count: int) -> None:
    envelopes, note = sender(), "x" * 460
    for start in range(0, count, ROWS):
        events = [Taken(order_id=f"{number:08}{note}", quantity=1) for number in range(start, min(start + ROWS, count))]
        letters = [envelopes.letter(event, cause=None) for event in events]
        async with out.database.transaction() as connection:
            await outbox.append(connection, letters, DEAD)


if __name__ == "__main__":
    run(main(job()))
