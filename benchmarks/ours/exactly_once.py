"""eventplat exactly once: inbox, effect and one event out in a transaction; the event published and its row gone.

The variants are what a handler does: `add` (an ORM row), `statement` (one INSERT of its own), `update` (SELECT FOR UPDATE,
then UPDATE).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy import insert, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.ours.shop import SERVICE, Placed, Taken, run, settings
from benchmarks.program import SKUS, Job, Meter, job
from eventplat import Context, Service
from eventplat.lifecycle import spare_the_collector
from eventplat.process import Process

LEFT = "SELECT (SELECT count(*) FROM bench.eventplat_inbox), (SELECT count(*) FROM bench.eventplat_outbox)"


class Tables(DeclarativeBase):
    """The service's own."""


class Sale(Tables):
    """What an inserting handler writes."""

    __tablename__ = "sale"
    order_id: Mapped[str] = mapped_column(primary_key=True)
    quantity: Mapped[int]


class Stock(Tables):
    """What an updating handler reads and updates."""

    __tablename__ = "stock"
    sku: Mapped[str] = mapped_column(primary_key=True)
    sold: Mapped[int]


async def add(event: Placed, ctx: Context) -> None:
    ctx.db.add(Sale(order_id=event.order_id, quantity=event.quantity))


async def statement(event: Placed, ctx: Context) -> None:
    await ctx.db.execute(insert(Sale).values(order_id=event.order_id, quantity=event.quantity))


async def update_(event: Placed, ctx: Context) -> None:
    sold = (await ctx.db.execute(select(Stock.sold).where(Stock.sku == event.sku).with_for_update())).scalar_one()
    await ctx.db.execute(update(Stock).where(Stock.sku == event.sku).values(sold=sold + event.quantity))


VARIANTS: dict[str, Callable[[Placed, Context], Awaitable[None]]] = {"add": add, "statement": statement, "update": update_}


def service(given: Job, meter: Meter, over: asyncio.Event) -> Service[None]:
    @asynccontextmanager
    async def stocked() -> AsyncIterator[None]:
        connection = await asyncpg.connect(given.postgres)
        rows = [(f"s-{number:04}", 0) for number in range(SKUS)]
        await connection.copy_records_to_table("stock", schema_name="bench", records=rows)
        await connection.close()
        yield

    found, effect = Service(SERVICE, tables=Tables.metadata, lifespan=stocked), VARIANTS[given.variant]

    @found.on(Placed, name="consume", batch=given.batch, concurrency=given.options["workers"])
    async def apply(event: Placed, ctx: Context) -> None:
        await effect(event, ctx)
        ctx.publish(Taken(order_id=event.order_id, quantity=event.quantity))
        if meter.tick():
            over.set()

    return found


async def main(given: Job) -> None:
    meter, over = Meter(given), asyncio.Event()
    own = settings(given, prefetch=max(given.batch, 16), database_pool_size=given.options["workers"])
    process = Process([service(given, meter, over)], gateway=False, settings=own)
    await process.start()
    spare_the_collector()
    await over.wait()
    connection = await asyncpg.connect(given.postgres)
    while tuple(await connection.fetchrow(LEFT) or ()) != (given.total, 0):
        await asyncio.sleep(0.005)
    meter.end()
    await connection.close()
    await process.stop()
    meter.report()


if __name__ == "__main__":
    run(main(job()))
