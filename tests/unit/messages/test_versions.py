"""Names and versions: what a class reads, what is refused when it is declared, and what upcasters make of older messages."""

from __future__ import annotations

import pytest

from eventplat.errors import BadMessageClass, Malformed
from eventplat.messages.message import Command, Event, Key
from eventplat.messages.versions import lift, read, readings


class Placed(Event, name="orders.placed", formerly=("orders.made", "created")):
    order_id: Key[str]
    pence: int


class PlacedV2(Event, name="orders.placed", version=2):
    order_id: Key[str]
    pence: int
    currency: str


class PlacedV3(Event, name="orders.placed", version=3):
    order_id: Key[str]
    price: str


@PlacedV2.upcasts(Placed)
def in_pounds(old: Placed) -> PlacedV2:
    return PlacedV2(order_id=old.order_id, pence=old.pence, currency="GBP")


@PlacedV3.upcasts(PlacedV2)
def as_text(old: PlacedV2) -> PlacedV3:
    return PlacedV3(order_id=old.order_id, price=f"{old.pence} {old.currency}")


def types(message: type[Event]) -> list[str]:
    return [reading.wire.type_under(reading.wire.owner or "") for reading in readings(message)]


def test_a_class_reads_its_own_name_its_former_ones_and_every_version_that_upcasters_lead_from() -> None:
    assert types(Placed) == ["orders.placed.v1", "orders.made.v1", "orders.created.v1"]
    assert types(PlacedV3) == ["orders.placed.v3", "orders.placed.v2", *types(Placed)]


@pytest.mark.parametrize("type_", types(Placed))
def test_upcasters_are_applied_one_after_the_other_from_the_oldest(type_: str) -> None:
    assert read(PlacedV3, type_, b'{"order_id":"a","pence":5,"unknown":1}') == PlacedV3(order_id="a", price="5 GBP")
    assert lift(Placed(order_id="a", pence=5), PlacedV3) == PlacedV3(order_id="a", price="5 GBP")


def test_a_newer_version_is_not_read_by_an_older_class() -> None:
    with pytest.raises(Malformed, match=r"orders\.placed\.v2 is nothing that a Placed is read from"):
        read(Placed, "orders.placed.v2", b'{"order_id":"a","pence":5,"currency":"EUR"}')


def test_a_message_that_no_owner_is_named_for_is_read_whoever_owns_it() -> None:
    class Moved(Event, formerly="went"):
        n: int

    assert read(Moved, "stock.went.v1", b'{"n":1}') == read(Moved, "shop.moved.v1", b'{"n":1}') == Moved(n=1)


def test_an_upcaster_that_makes_no_message_says_which() -> None:
    class Strict(Event, name="orders.placed", version=4):
        order_id: int

    @Strict.upcasts(Placed)
    def by_number(old: Placed) -> Strict:
        return Strict(order_id=old.order_id)

    with pytest.raises(Malformed, match=r"by_number makes no message of placed\.v1"):
        read(Strict, "orders.placed.v1", b'{"order_id":"a","pence":5}')


def test_an_upcaster_is_refused_for_another_kind_a_second_time_and_in_a_circle() -> None:
    class Place(Command[None], name="orders.place"):
        order_id: str

    with pytest.raises(BadMessageClass, match="no older event"):
        PlacedV2.upcasts(Place)
    with pytest.raises(BadMessageClass, match="in_pounds already"):
        PlacedV2.upcasts(Placed)
    with pytest.raises(BadMessageClass, match="PlacedV3 is made of Placed"):
        Placed.upcasts(PlacedV3)


def test_a_former_name_is_a_name_and_not_the_present_one() -> None:
    with pytest.raises(BadMessageClass, match="no former name"):
        type("Bad", (Event,), {"__annotations__": {"n": int}}, formerly="Order_Created")
    with pytest.raises(BadMessageClass, match="is called 'moved' now"):
        type("Moved", (Event,), {"__annotations__": {"n": int}}, formerly="moved")


def test_a_command_changes_its_name_and_not_its_owner() -> None:
    with pytest.raises(BadMessageClass, match="not its owner"):

        class Reserve(Command[None], name="stock.reserve", formerly="shop.reserve"):
            sku: str
