"""Pending: what cannot be read is kept all the same, and an error as a short record."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select

from eventplat.errors import Malformed
from eventplat.messages.codec import Properties
from eventplat.messages.ids import derived_id
from eventplat.storage.database import Database
from eventplat.storage.migrate import create_tables
from eventplat.storage.tables import platform
from eventplat.testing.virtual_clock import VirtualClock
from eventplat.transactions.attempts import error_record
from eventplat.transactions.pending import Pending, park, pending
from eventplat.transactions.stored import to_properties

ID = derived_id(0, "parked")


def parked(properties: Properties, body: bytes = b"\xff") -> Any:
    """The row that keeps this."""

    async def run() -> Any:
        database = Database("sqlite://", service="shop", clock=VirtualClock())
        try:
            await create_tables(database, platform)
            async with database.transaction() as connection:
                error = error_record(Malformed("no"), 0, 0)
                await park(connection, "shop.place", ID, properties, body, exchange="x", routing_key="r", error=error)
                await park(connection, "shop.place", ID, properties, b"another", exchange="x", routing_key="r", error=error)
                return (await connection.execute(select(pending))).one()
        finally:
            await database.close()

    return asyncio.run(run())


def test_bytes_that_are_no_message_are_kept_as_they_came_and_once() -> None:
    properties = Properties(type="shop.place.v1", app_id="stranger", headers={"other": [1, {"a": None}]})

    row = parked(properties, b"\0\xff{")

    assert (row.state, row.body, row.type, row.due_us, row.attempts) == ("dead", b"\0\xff{", "shop.place.v1", None, 0)
    assert to_properties(row.properties) == properties


@pytest.mark.parametrize("value", [b"\xff", datetime(2030, 1, 1, tzinfo=UTC), {"a": b"\xff"}], ids=["bytes", "time", "bytes inside"])
def test_a_header_that_json_cannot_hold_takes_no_other_property_with_it(value: object) -> None:
    row = parked(Properties(message_id="m", type="t", app_id="stranger", reply_to="r", headers={"bad": value, "good": "g"}))

    kept = to_properties(row.properties)
    assert (kept.message_id, kept.type, kept.app_id, kept.reply_to) == ("m", "t", "stranger", "r")
    assert kept.headers == {"bad": repr(value), "good": repr("g")}


def test_u0000_does_not_keep_a_message_from_being_parked() -> None:
    """PostgreSQL refuses it in any text: the row could not be written, and the message would come again for ever."""
    row = parked(Properties(message_id="a\0b", type="a\0b", headers={"key": "\0"}))

    assert row.type == "a\ufffdb"
    assert "\0" not in row.type + row.properties + row.errors
    assert to_properties(row.properties).type == "a\0b"


def test_a_parked_message_that_is_asked_for_says_why_it_is_none() -> None:
    row = Pending("shop.place", ID, "dead", 0, Properties(), b"", ())

    with pytest.raises(Malformed, match="message_id"):
        row.envelope()

