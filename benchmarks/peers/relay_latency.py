"""A relay by hand, from commit to handler: woken by LISTEN/NOTIFY, or polling every 100 ms; asyncpg and aio-pika."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import Any

import aio_pika
import asyncpg

from benchmarks.program import job, order_body, spread

given = job()
committed: dict[str, float] = {}
handled: dict[str, float] = {}
over, woken = asyncio.Event(), asyncio.Event()


async def consume(message: Any) -> None:
    async with message.process():
        handled[message.message_id] = time.perf_counter()
    if len(handled) == given.total:
        over.set()


async def relay(exchange: Any) -> None:
    database = await asyncpg.connect(given.postgres)
    await database.add_listener("outbox", lambda *_: woken.set())
    while True:
        if given.variant == "poll":
            await asyncio.sleep(0.1)
        else:
            await woken.wait()
            woken.clear()
        async with database.transaction():
            rows = await database.fetch("SELECT id, body FROM outbox ORDER BY id LIMIT 500 FOR UPDATE SKIP LOCKED")
            for row in rows:
                message = aio_pika.Message(row["body"], message_id=str(row["id"]), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
                await exchange.publish(message, routing_key=given.queue, mandatory=True)
            await database.execute("DELETE FROM outbox WHERE id = ANY($1)", [row["id"] for row in rows])


async def main() -> None:
    database = await asyncpg.connect(given.postgres)
    await database.execute("CREATE TABLE outbox (id uuid PRIMARY KEY, body bytea NOT NULL)")
    async with await aio_pika.connect_robust(given.amqp) as connection:
        publishing, consuming = await connection.channel(), await connection.channel()
        await consuming.set_qos(prefetch_count=64)
        await (await consuming.get_queue(given.queue)).consume(consume)
        relaying = asyncio.create_task(relay(publishing.default_exchange))
        begun = time.perf_counter()
        for number in range(given.total):
            await asyncio.sleep(max(begun + number / given.options["rate"] - time.perf_counter(), 0))
            own = uuid.uuid4()
            async with database.transaction():
                await database.execute("INSERT INTO outbox VALUES ($1, $2)", own, order_body(number))
                if given.variant == "notify":
                    await database.execute("NOTIFY outbox")
            committed[str(own)] = time.perf_counter()
        await over.wait()
        relaying.cancel()
    print(json.dumps(spread([handled[each] - at for each, at in committed.items()][given.warm :])), flush=True)


asyncio.run(main())
