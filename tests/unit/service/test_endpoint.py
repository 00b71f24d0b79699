"""Endpoints: which queues a release reads, what is bound to them, and what it announces, when names and versions have changed."""

from __future__ import annotations

from typing import Any

import pytest

from eventplat.broker.topology import Names
from eventplat.errors import BadHandler, Malformed, UnknownType
from eventplat.messages.envelope import Envelope
from eventplat.messages.message import Command, Event, Key
from eventplat.service.context import Context
from eventplat.service.endpoint import Endpoint, endpoints, manifest, topology
from eventplat.service.service import Service

ID = "01890000-0000-7000-8000-000000000000"


class Placed(Event, name="orders.placed", formerly="made"):
    order_id: Key[str]


class PlacedV2(Event, name="orders.placed", version=2):
    order_id: Key[str]
    currency: str


@PlacedV2.upcasts(Placed)
def in_pounds(old: Placed) -> PlacedV2:
    return PlacedV2(order_id=old.order_id, currency="GBP")


class Reserve(Command[int], name="stock.reserve", formerly="book"):
    sku: Key[str]


class ReserveV2(Command[int], name="stock.reserve", version=2):
    sku: Key[str]
    quantity: int


@ReserveV2.upcasts(Reserve)
def one(old: Reserve) -> ReserveV2:
    return ReserveV2(sku=old.sku, quantity=1)


async def nothing(message: Any, ctx: Context) -> Any: ...


def bound(endpoint: Endpoint) -> list[str]:
    return [binding.routing_key for binding in endpoint.queue(Names()).bindings]


def test_a_subscription_reads_every_name_and_version_in_one_queue() -> None:
    mail = Service("mail")
    mail.on(PlacedV2)(nothing)
    (endpoint,) = endpoints(mail)

    assert bound(endpoint) == ["orders.order.placed.v2.*", "orders.order.placed.v1.*", "orders.order.made.v1.*"]
    assert (endpoint.identity, endpoint.queue(Names()).name) == ("mail.on-placed", "eventplat.mail.on-placed")


def test_an_ordered_subscription_binds_the_stream_once_for_all_versions() -> None:
    mail = Service("mail")
    mail.on(PlacedV2, ordered=True)(nothing)

    assert bound(endpoints(mail)[0]) == ["orders.order.*.*.*"]


def test_a_renamed_subscription_has_a_new_queue_reads_the_old_one_and_stays_who_it_was() -> None:
    mail = Service("mail")
    mail.on(PlacedV2, name="thank", formerly=("greet", "on-placed"))(nothing)
    (endpoint,) = endpoints(mail)

    assert (endpoint.identity, endpoint.consumer, endpoint.queue(Names()).name) == ("mail.greet", "mail.greet", "eventplat.mail.thank")
    assert [queue.name for queue in endpoint.former_queues(Names())] == ["eventplat.mail.greet", "eventplat.mail.on-placed"]
    assert "eventplat.mail.greet" not in [queue.name for queue in topology(mail, Names()).queues], "it is declared by nobody any more"


def test_a_subscription_that_goes_by_its_event_is_renamed_with_it() -> None:
    mail = Service("mail")
    mail.on(Placed)(nothing)
    (endpoint,) = endpoints(mail)

    assert (endpoint.identity, endpoint.name, endpoint.former) == ("mail.on-made", "mail.on-placed", ("mail.on-made",))


def test_a_command_has_a_queue_for_each_name_and_version_that_its_handler_reads() -> None:
    stock = Service("stock")
    stock.handles(ReserveV2, http="POST /reservations")(nothing)

    assert [(each.identity, bound(each)) for each in endpoints(stock)] == [
        ("stock.reserve.v2", ["stock.*.reserve.v2.*"]),
        ("stock.reserve", ["stock.*.reserve.v1.*"]),
        ("stock.book", ["stock.*.book.v1.*"]),
    ]


def test_a_version_with_a_handler_of_its_own_is_left_to_that_one() -> None:
    stock = Service("stock")
    stock.handles(ReserveV2)(nothing)
    stock.handles(Reserve)(nothing)

    assert [(each.identity, each.handler.message) for each in endpoints(stock)] == [
        ("stock.reserve.v2", ReserveV2), ("stock.book", ReserveV2), ("stock.reserve", Reserve),
    ]  # fmt: skip


def test_the_manifest_says_everything_that_is_read_and_each_route_once() -> None:
    stock = Service("stock")
    stock.handles(ReserveV2, http="POST /reservations")(nothing)
    stock.on(PlacedV2)(nothing)
    said = manifest(stock, "1").handlers

    assert [handler.type for handler in said] == ["stock.reserve.v2", "stock.reserve.v1", "stock.book.v1", "orders.placed.v2"]
    assert [handler.type for handler in said if handler.route is not None] == ["stock.reserve.v2"]
    assert said[3].reads == ("orders.placed.v1", "orders.made.v1")
    assert "quantity" in said[0].schema_["properties"]
    assert "quantity" not in said[1].schema_["properties"]


def test_a_foreign_queue_is_read_declared_by_nobody_and_announced_to_nobody() -> None:
    shop = Service("shop")
    shop.consume(queue="Legacy.ORDERS_2")(nothing)
    (endpoint,) = endpoints(shop)

    assert (endpoint.identity, endpoint.queue(Names()).name) == ("shop.from-legacy-orders-2", "Legacy.ORDERS_2")
    assert "Legacy.ORDERS_2" not in [queue.name for queue in topology(shop, Names()).queues]
    assert manifest(shop, "1").handlers == ()


def test_a_foreign_queue_needs_a_database() -> None:
    shop = Service("shop", database=False)
    shop.consume(queue="legacy.orders")(nothing)

    with pytest.raises(BadHandler, match="database=False"):
        endpoints(shop)


def test_two_names_that_meet_are_refused() -> None:
    mail = Service("mail")
    mail.on(Placed, name="thank", formerly="greet")(nothing)
    mail.on(Placed, name="greet")(nothing)

    with pytest.raises(BadHandler, match=r"two handlers named 'mail\.greet'"):
        endpoints(mail)


def test_an_event_of_another_version_is_unknown_and_a_command_is_simply_wrong() -> None:
    stock = Service("stock")
    stock.handles(Reserve)(nothing)
    stock.on(Placed)(nothing)
    reserve, _, placed = endpoints(stock)

    with pytest.raises(UnknownType, match=r"orders\.placed\.v2 came to stock\.on-made"):
        placed.read(Envelope(id=ID, type="orders.placed.v2", body=b"{}", correlation_id=ID))
    with pytest.raises(Malformed) as raised:
        reserve.read(Envelope(id=ID, type="stock.reserve.v2", body=b"{}", correlation_id=ID))
    assert not isinstance(raised.value, UnknownType)
