"""Retention: what is old and settled goes, what may still be needed stays, and order holds over it; on both databases."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import insert, select, update

from eventplat.clock import SystemClock
from eventplat.messages.envelope import Envelope
from eventplat.messages.ids import new_id
from eventplat.storage.database import Database
from eventplat.storage.migrate import upgrade
from eventplat.transactions import inbox, pending, retention, watermark
from eventplat.transactions.inbox import inbox as inbox_rows
from eventplat.transactions.outbox_tables import event_log, sequence
from eventplat.transactions.pending import pending as pending_rows
from eventplat.transactions.retention import Retention

DAY_US = 86_400 * 1_000_000
CHANCE = random.SystemRandom()
HANDLER = "mail.on-moved"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'mail.db'}"
    from tests.servers import fresh_database  # noqa: PLC0415 - starts a server, only when a test needs it

    return fresh_database()


def run(url: str, test: Callable[[Database, Retention], Awaitable[None]]) -> None:
    async def main() -> None:
        clock = SystemClock()
        database = Database(url, service="mail", clock=clock)
        await upgrade(database)
        await test(database, Retention(database, clock, inbox_s=14 * 86_400, event_log_s=30 * 86_400))
        await database.close()

    asyncio.run(main())


def event(age_days: float, *, seq: int | None = None, prev: int | None = None) -> Envelope:
    made_us = SystemClock().time_us() - int(age_days * DAY_US)
    return Envelope(id=new_id(made_us, CHANCE), type="stock.moved.v1", body=b"{}", correlation_id="", app_id="stock", key="a",
                    stream="moved", seq=seq or made_us, prev=prev)  # fmt: skip


async def settle(database: Database, *envelopes: Envelope) -> None:
    """In the inbox, as of when they were made."""
    async with database.transaction() as connection:
        for envelope in envelopes:
            await inbox.claim(connection, HANDLER, envelope, handler=None)
            old = update(inbox_rows).where(inbox_rows.c.message_id == envelope.id)
            await connection.execute(old.values(settled_us=envelope.created_us))


async def log(database: Database, *envelopes: Envelope) -> None:
    async with database.transaction() as connection:
        for e in envelopes:
            await connection.execute(insert(event_log).values(
                id=e.id, bucket=0, type=e.type, properties="{}", body=e.body, created_us=e.created_us, unrouted=False,
            ))  # fmt: skip


async def ids(database: Database, column: object) -> set[str]:
    async with database.transaction(read_only=True) as connection:
        return {row[0] for row in await connection.execute(select(column))}  # type: ignore[call-overload]


def test_what_is_older_than_it_is_kept_for_goes_in_batches_and_the_rest_stays(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)

    async def test(database: Database, keeper: Retention) -> None:
        young, old, older = event(13), event(15), [event(31) for _ in range(5)]
        await settle(database, young, old, *older)
        await log(database, young, old, *older)
        await keeper.run_once()
        assert await ids(database, inbox_rows.c.message_id) == {young.id}
        assert await ids(database, event_log.c.id) == {young.id, old.id}

    run(url, test)


def test_nothing_goes_that_is_younger_than_what_is_not_settled_yet(url: str) -> None:
    async def test(database: Database, keeper: Retention) -> None:
        waits, before, after = event(60), event(61), event(59)
        await settle(database, before, after)
        await log(database, before, after)
        async with database.transaction() as connection:
            await pending.record(connection, HANDLER, waits, state="dead", attempts=3, wait_us=None, error=None)
        await keeper.run_once()
        assert await ids(database, inbox_rows.c.message_id) == {after.id}
        assert await ids(database, event_log.c.id) == {after.id}
        assert await ids(database, pending_rows.c.message_id) == {waits.id}

    run(url, test)


def test_a_key_whose_order_was_forgotten_goes_on_and_holds_nothing(url: str) -> None:
    async def test(database: Database, keeper: Retention) -> None:
        old = event(40)
        async with database.transaction() as connection:
            horizon_us = await watermark.subscribe(connection, HANDLER)
            await connection.execute(update(watermark.watermark).values(seq=horizon_us - 50 * DAY_US))
            assert await watermark.advance(connection, HANDLER, old) == "apply"
            await connection.execute(insert(sequence).values(stream="moved", key="a", bucket=0, last=old.seq, prev=None))
        await keeper.run_once()
        assert await ids(database, sequence.c.key) == set()
        assert await ids(database, watermark.watermark.c.key) == {""}  # of the handler's horizon
        async with database.transaction() as connection:
            next_ = event(0, prev=old.seq)
            assert await watermark.advance(connection, HANDLER, next_) == "apply"
            gap = (next_.seq or 0) + 1
            assert await watermark.advance(connection, HANDLER, event(0, seq=gap + 1, prev=gap)) == "wait"

    run(url, test)
