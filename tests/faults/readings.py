"""Readings: events and the service that applies them, for the campaigns of messaging.

`meter` publishes (`tests.faults.producer`). Half of its events have a key; the alarms among them are to be applied in
the order of their key. `ledger` has a handler for each kind and writes a row for every application into a table without
any unique constraint: what happens twice is seen, not prevented.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from eventplat import Context, Event, Key, Service

BATCH = 50


class Tick(Event, name="meter.tick"):
    """Without a key."""

    source: str
    n: int


class Reading(Event, name="meter.reading"):
    """With a key, in no order."""

    source: Key[str]
    n: int


class Alarm(Event, name="meter.alarm"):
    """With a key, in its order: `n` grows with each of one source."""

    source: Key[str]
    n: int


class Base(DeclarativeBase):
    pass


class Applied(Base):
    """One application of one event by one handler, in the order of `id`."""

    __tablename__ = "applied"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    handler: Mapped[str] = mapped_column(Text)
    event_id: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(Text)
    n: Mapped[int] = mapped_column(BigInteger)


HANDLERS = {"count": "meter.tick.v1", "read": "meter.reading.v1", "follow": "meter.alarm.v1"}   # and what each gets

ledger = Service("ledger", tables=Base.metadata)


@ledger.on(Tick, name="count", batch=BATCH)
async def count(event: Tick, ctx: Context) -> None:
    _apply("count", event, ctx)


@ledger.on(Reading, name="read", batch=BATCH)
async def read(event: Reading, ctx: Context) -> None:
    _apply("read", event, ctx)


@ledger.on(Alarm, name="follow", ordered=True, batch=BATCH)
async def follow(event: Alarm, ctx: Context) -> None:
    _apply("follow", event, ctx)


def _apply(handler: str, event: Tick | Reading | Alarm, ctx: Context) -> None:
    ctx.db.add(Applied(handler=handler, event_id=ctx.envelope.id, source=event.source, n=event.n))
