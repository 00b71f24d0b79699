"""Exactly once by hand, on FastStream and SQLAlchemy: an inbox table, an outbox table and a relay that publishes it.

One session and one transaction per message, as SQLAlchemy's FastAPI and FastStream examples have it; 16 in flight.
"""

from __future__ import annotations

import asyncio
import uuid

from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue
from pydantic import BaseModel
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.program import SKUS, Meter, job


class Order(BaseModel):
    order_id: str
    sku: str
    quantity: int
    note: str


class Base(DeclarativeBase):
    pass


class Inbox(Base):
    __tablename__ = "inbox"
    message_id: Mapped[str] = mapped_column(primary_key=True)


class Outbox(Base):
    __tablename__ = "outbox"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    body: Mapped[str]


class Sale(Base):
    __tablename__ = "sale"
    order_id: Mapped[str] = mapped_column(primary_key=True)
    quantity: Mapped[int]


class Stock(Base):
    __tablename__ = "stock"
    sku: Mapped[str] = mapped_column(primary_key=True)
    sold: Mapped[int]


class Taken(BaseModel):
    order_id: str
    quantity: int


given = job()
meter = Meter(given)
over, written = asyncio.Event(), asyncio.Event()
engine = create_async_engine(given.postgres.replace("postgresql://", "postgresql+asyncpg://"), pool_size=given.window + 2)
sessions = async_sessionmaker(engine, expire_on_commit=False)
broker = RabbitBroker(given.amqp, logger=None)


@broker.subscriber(
    RabbitQueue(given.queue, queue_type=QueueType.QUORUM, durable=True, declare=False), channel=Channel(prefetch_count=given.window)
)
async def consume(order: Order) -> None:
    async with sessions.begin() as session:
        claim = upsert(Inbox).values(message_id=order.order_id).on_conflict_do_nothing().returning(Inbox.message_id)
        if (await session.execute(claim)).first() is None:
            return
        await apply(order, session)
        session.add(Outbox(body=Taken(order_id=order.order_id, quantity=order.quantity).model_dump_json()))
    written.set()
    if meter.tick():
        over.set()


async def apply(order: Order, session: AsyncSession) -> None:
    if given.variant == "add":
        session.add(Sale(order_id=order.order_id, quantity=order.quantity))
    elif given.variant == "statement":
        await session.execute(insert(Sale).values(order_id=order.order_id, quantity=order.quantity))
    else:
        sold = (await session.execute(select(Stock.sold).where(Stock.sku == order.sku).with_for_update())).scalar_one()
        await session.execute(update(Stock).where(Stock.sku == order.sku).values(sold=sold + order.quantity))


async def relay() -> None:
    while True:
        await written.wait()
        written.clear()
        async with sessions.begin() as session:
            rows = (await session.scalars(select(Outbox).order_by(Outbox.id).limit(500).with_for_update(skip_locked=True))).all()
            out = given.options["out"]
            await asyncio.gather(*(broker.publish(row.body, out, mandatory=True, persist=True, message_id=str(row.id)) for row in rows))
            await session.execute(delete(Outbox).where(Outbox.id.in_([row.id for row in rows])))
        if len(rows) == 500:
            written.set()


async def main() -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(insert(Stock), [{"sku": f"s-{number:04}", "sold": 0} for number in range(SKUS)])
    async with broker:
        publishing = asyncio.create_task(relay())
        await broker.start()
        await over.wait()
        async with sessions() as session:
            while await session.scalar(select(func.count()).select_from(Outbox)):
                await asyncio.sleep(0.005)
        meter.end()
        publishing.cancel()
    meter.report()


asyncio.run(main())
