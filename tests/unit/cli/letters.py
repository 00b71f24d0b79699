"""A shop's database with what an operator meets in it, made as the running service makes it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from eventplat.clock import SystemClock
from eventplat.messages.envelope import Envelope
from eventplat.messages.ids import derived_id
from eventplat.settings import load
from eventplat.storage.database import Database
from eventplat.storage.migrate import upgrade
from eventplat.transactions import outbox, pending
from eventplat.transactions.attempts import error_record
from eventplat.transactions.letter import Letter

START_US = 1_900_000_000_000_000
WEEK_US = 7 * 86_400 * 1_000_000
PLACE, ON_PLACED = "shop.place", "shop.on-placed"
IDS = [derived_id(START_US, str(number)) for number in range(4)]


def placed(number: int, **more: Any) -> Envelope:
    """An event of order "o-1"; `number` is its place."""
    fields: dict[str, Any] = {"key": "o-1", "stream": "order", "seq": number + 1, "prev": number or None, "app_id": "shop"} | more
    return Envelope(id=IDS[number], type="shop.placed.v1", body=b'{"order_id":"o-1"}', correlation_id=IDS[number], **fields)


def fail(text: str) -> None:
    raise ValueError(text)


def failed(text: str) -> BaseException:
    try:
        fail(text)
    except ValueError as error:
        return error
    raise AssertionError("it did not fail")


def make(folder: Path) -> None:
    """Two dead events and one that is held behind the second, in the terminal's data directory; a delayed one as well."""
    (folder / ".eventplat").mkdir()
    asyncio.run(_make(folder / ".eventplat"))


async def _make(folder: Path) -> None:
    clock = SystemClock()
    database = Database(load(data_dir=folder).database("shop"), service="shop", clock=clock)
    try:
        await upgrade(database)
        async with database.transaction() as connection:
            for number in (0, 1):
                error = error_record(failed(f"no stock {number}"), 1, START_US)
                await pending.record(connection, ON_PLACED, placed(number), state="dead", attempts=1, wait_us=None, error=error)
            await pending.record(connection, ON_PLACED, placed(2), state="held", attempts=0, wait_us=WEEK_US, error=None)
            letter = Letter("eventplat.events", "shop.order.placed.v1.0", placed(3, seq=None, prev=None), is_event=True, after_us=WEEK_US)
            await outbox.append(connection, [letter], IDS[0])
    finally:
        await database.close()
