"""Message classes: names on the wire, keys, replies, and what is refused when a class is declared."""

from __future__ import annotations

import enum
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from eventplat.errors import BadMessageClass
from eventplat.messages.message import WORD_CHARS_MAX, Command, Event, Key, Message, Query, WireName, reply_type


class Reservation(BaseModel):
    reservation_id: str


class Colour(enum.Enum):
    RED = "red"


class Size(enum.StrEnum):
    SMALL = "s"


class OrderPlaced(Event):
    order_id: Key[str]
    quantity: int = 1


class ReserveStock(Command[Reservation], name="stock.reserve-stock"):
    sku: Key[str]


def declared(class_name: str, /, **keywords: Any) -> type[Message]:
    return type(class_name, (Event,), {"__module__": __name__}, **keywords)


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        ("OrderPlaced", "order-placed"),
        ("HTTPServerStarted", "http-server-started"),
        ("StartedHTTP", "started-http"),
        ("Order", "order"),
        ("OrderPlacedV2", "order-placed-v2"),
        ("Order66Executed", "order66-executed"),
    ],
)
def test_a_class_is_called_by_its_words(name: str, wire: str) -> None:
    assert declared(name).wire == WireName(None, wire, 1, "-")


def test_a_name_says_its_owner() -> None:
    assert ReserveStock.wire == WireName("stock", "reserve-stock", 1, "sku")
    assert ReserveStock.wire.type_under("stock") == "stock.reserve-stock.v1"


def test_a_name_does_not_follow_the_class_into_a_subclass() -> None:
    class ReserveMore(ReserveStock):
        pass

    assert ReserveMore.wire == WireName(None, "reserve-more", 1, "sku")


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "orders.", ".order", "a.b.c", "Order", "order placed", "order_placed", "-a", "a-", "a--b", "größe", "a\n", "*", "#",
        "orders.#", "orders .placed", "\u043e",  # a Cyrillic letter
    ],
)  # fmt: skip
def test_a_name_that_would_break_a_routing_key_is_refused(name: str) -> None:
    with pytest.raises(BadMessageClass, match="is no wire name"):
        declared("OrderPlaced", name=name)


@pytest.mark.parametrize("stream", ["", "-", "a.b", "*", "#", "a b", "Order", "order_id"])
def test_a_stream_that_would_break_a_routing_key_is_refused(stream: str) -> None:
    with pytest.raises(BadMessageClass, match="is no stream"):
        declared("OrderPlaced", stream=stream)


def test_a_class_whose_words_are_no_name_must_be_given_one() -> None:
    with pytest.raises(BadMessageClass, match="'größe-changed' is no wire name"):
        declared("GrößeChanged")
    assert declared("GrößeChanged", name="size-changed").wire.name == "size-changed"


@pytest.mark.parametrize("keywords", [{"name": "a" * 81}, {"name": f"orders.{'a' * 81}"}, {"name": f"{'a' * 81}.b"}, {"stream": "a" * 81}])
def test_a_word_too_long_for_a_routing_key_is_refused(keywords: dict[str, str]) -> None:
    with pytest.raises(BadMessageClass, match=f"at most {WORD_CHARS_MAX}"):
        declared("OrderPlaced", **keywords)


def test_the_longest_words_make_a_routing_key_that_amqp_takes() -> None:
    word = "a" * WORD_CHARS_MAX
    wire = declared("OrderPlaced", name=f"{word}.{word}", stream=word, version=99).wire

    assert len(f"{wire.owner}.{wire.stream}.{wire.name}.v{wire.version}.63") <= 255


@pytest.mark.parametrize("version", [0, -1])
def test_versions_count_from_one(version: int) -> None:
    with pytest.raises(BadMessageClass, match="count from 1"):
        declared("OrderPlaced", version=version)


def test_a_message_has_at_most_one_key() -> None:
    with pytest.raises(BadMessageClass, match=r"2 keys \(a, b\)"):

        class TwoKeys(Event):
            a: Key[str]
            b: Key[int]


@pytest.mark.parametrize(
    ("kind", "value", "key"),
    [
        (str, "o-1", "o-1"), (str, "", ""), (str, "größe", "größe"), (int, 7, "7"), (int, -1, "-1"),
        (UUID, "0190B3A2-7C00-7000-8000-000000000001", "0190b3a2-7c00-7000-8000-000000000001"),
        (Decimal, "1.50", "1.50"), (Colour, "red", "red"), (Size, "s", "s"), (datetime, "2030-01-01T12:00:00Z", "2030-01-01T12:00:00Z"),
        (str | None, None, None), (str | None, "o-1", "o-1"),
    ],
)  # fmt: skip
def test_a_key_is_the_text_that_stands_in_the_body(kind: Any, value: Any, key: str | None) -> None:
    class Keyed(Event):
        it: Key[kind]

    assert Keyed(it=value).key == key


def test_a_message_without_a_key_field_has_no_key() -> None:
    class Loose(Event):
        it: str

    assert Loose(it="a").key is None


@pytest.mark.parametrize(
    ("field", "stream"), [("order_id", "order"), ("id", "id"), ("customer_account_id", "customer-account"), ("sku", "sku")]
)
def test_a_stream_is_called_by_its_key(field: str, stream: str) -> None:
    kind: Any = type("Keyed", (Event,), {"__module__": __name__, "__annotations__": {field: Key[str]}})

    assert kind.wire.stream == stream


def test_the_reply_of_a_message_is_what_its_class_says() -> None:
    class Ping(Command[None]):
        pass

    class Count(Query[int]):
        pass

    class CountMore(Count):
        pass

    assert reply_type(ReserveStock) is Reservation
    assert reply_type(Ping) is None
    assert reply_type(CountMore) is int
    assert reply_type(OrderPlaced) is None
    assert ReserveStock.reply_adapter().validate_json(b'{"reservation_id":"r-1"}') == Reservation(reservation_id="r-1")


def test_a_message_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        OrderPlaced(order_id="o-1").quantity = 2  # type: ignore[misc]


def test_a_field_of_a_later_release_is_ignored() -> None:
    assert OrderPlaced.model_validate_json(b'{"order_id":"o-1","colour":"red"}') == OrderPlaced(order_id="o-1")


@given(st.text(), st.integers())
def test_what_is_written_is_what_is_read(order_id: str, quantity: int) -> None:
    placed = OrderPlaced(order_id=order_id, quantity=quantity)

    assert OrderPlaced.model_validate_json(placed.to_bytes()) == placed
    assert placed.key == order_id


@given(st.binary())
def test_bytes_in_a_message_arrive_as_they_were(image: bytes) -> None:
    assert Scanned.model_validate_json(Scanned(image=image).to_bytes()).image == image


class Scanned(Event):
    image: bytes
