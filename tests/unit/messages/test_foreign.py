"""Foreign messages: one id for every copy, decoded alike from the wire and from the database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel

from eventplat.errors import Malformed
from eventplat.messages.codec import Properties, to_properties
from eventplat.messages.foreign import ForeignQueue
from eventplat.transactions import stored


class Order(BaseModel):
    number: int


def id_of(queue: ForeignQueue, body: bytes = b"{}", **properties: Any) -> str:
    return queue.envelope(Properties(**properties), body).id


def test_the_id_is_of_the_queue_and_what_tells_a_copy_alone() -> None:
    queue = ForeignQueue("legacy.orders", Order, lambda order: order.number)

    assert id_of(queue, b'{"number":7}', timestamp=1) == id_of(queue, b'{"number": 7, "more": 1}', timestamp=2)
    assert len({id_of(queue, b'{"number":7}'), id_of(queue, b'{"number":8}'), id_of(ForeignQueue("other"), message_id="7")}) == 3


@pytest.mark.parametrize(("key", "properties"), [
    (None, {"message_id": "a"}), ("correlation_id", {"correlation_id": "a"}), ("number", {"headers": {"number": "a"}}),
    (lambda _: "a", {}),
])  # fmt: skip
def test_what_tells_a_copy_is_the_message_id_a_property_a_header_or_a_function(key: Any, properties: dict[str, Any]) -> None:
    assert id_of(ForeignQueue("q", None, key), **properties) == id_of(ForeignQueue("q"), message_id="a")


@pytest.mark.parametrize("key", [None, "correlation_id", "number", "headers", lambda order: order["number"], lambda _: None, lambda _: ""])
def test_without_it_the_message_is_malformed(key: Any) -> None:
    with pytest.raises(Malformed, match="it has no id"):
        id_of(ForeignQueue("q", None, key), headers={"other": 1})


def test_properties_are_the_same_once_they_have_been_in_the_database() -> None:
    headers = {"b": b"\xff", "t": datetime(2026, 1, 1, tzinfo=UTC), "n": {"l": [b"x", None]}}
    given = Properties(message_id="a", reply_to="b", headers=headers)
    envelope = ForeignQueue("q").envelope(given, b"\xff")

    kept = stored.to_properties(stored.properties_text(to_properties(envelope)))

    assert kept == envelope.properties
    assert kept.headers == {"b": "\\xff", "t": "2026-01-01 00:00:00+00:00", "n": {"l": ["x", None]}}
