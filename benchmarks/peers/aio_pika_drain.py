"""A relay by hand, on asyncpg and aio-pika: lock up to 500 rows, publish them confirmed, delete them, commit."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import aio_pika
import asyncpg

from benchmarks.program import Meter, job, order_body

given = job()
meter = Meter(given)
TAKE = "SELECT id, body FROM outbox ORDER BY id LIMIT 500 FOR UPDATE SKIP LOCKED"


async def publish(exchange: Any, row: Any) -> None:
    message = aio_pika.Message(
        row["body"], message_id=str(row["id"]), content_type="application/json", delivery_mode=aio_pika.DeliveryMode.PERSISTENT
    )
    await exchange.publish(message, routing_key=given.queue, mandatory=True)


async def main() -> None:
    database = await asyncpg.connect(given.postgres)
    await database.execute("CREATE TABLE outbox (id uuid PRIMARY KEY, body bytea NOT NULL)")
    rows = [(uuid.uuid4(), order_body(number)) for number in range(given.total)]
    await database.copy_records_to_table("outbox", records=rows)
    async with await aio_pika.connect_robust(given.amqp) as connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        while meter.done < given.total:
            async with database.transaction():
                taken = await database.fetch(TAKE)
                await asyncio.gather(*(publish(channel.default_exchange, row) for row in taken))
                await database.execute("DELETE FROM outbox WHERE id = ANY($1)", [row["id"] for row in taken])
            meter.tick(len(taken))
    meter.report()


asyncio.run(main())
