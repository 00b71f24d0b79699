"""Declarations: what is refused when the module is imported, with the words that say what to do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from eventplat.discovery.route import Route
from eventplat.errors import BadHandler, ServiceError
from eventplat.messages.message import Command, Event, Key, Query
from eventplat.service.context import Context
from eventplat.service.handlers import Handlers
from eventplat.service.service import Service


class Placed(Event, name="orders.placed"):
    order_id: Key[str]


class Closed(Event, name="orders.closed"):
    day: str


class Place(Command[None], name="orders.place"):
    order_id: Key[str]


class Find(Query[str], name="orders.find"):
    order_id: str


async def nothing(message: Any, ctx: Context) -> Any: ...


async def too_many(message: Any, ctx: Context, more: str) -> Any: ...


@pytest.mark.parametrize("start", ["beginning", datetime(2026, 1, 1, tzinfo=UTC)])
def test_a_subscription_to_the_past_is_refused_as_long_as_it_is_not_there(start: Any) -> None:
    with pytest.raises(BadHandler, match="not built yet"):
        Handlers[None]().on(Placed, start=start)(nothing)


@pytest.mark.parametrize("message", [Place, Find])
def test_only_a_subscription_can_be_ordered(message: Any) -> None:
    with pytest.raises(BadHandler, match="only a subscription"):
        Handlers[None]().handles(message, ordered=True)(nothing)


@pytest.mark.parametrize(
    ("event", "options", "what"),
    [
        (Placed, {"ordered": True, "partitions": 0}, r"partitions= is 1\.\.64"),
        (Placed, {"ordered": True, "partitions": 65}, r"partitions= is 1\.\.64"),
        (Placed, {"partitions": 2}, "partitions= goes with ordered=True"),
        (Closed, {"ordered": True, "partitions": 2}, r"Closed has no Key\[\.\.\.\] field to spread its events"),
        (Placed, {"name": "placed.p01"}, "'placed.p01' is what a partition's queue is named"),
    ],
)
def test_partitions_are_of_an_ordered_subscription_to_events_with_keys(event: type[Event], options: dict[str, Any], what: str) -> None:
    with pytest.raises(BadHandler, match=what):
        Handlers[None]().on(event, **options)(nothing)


def test_a_handler_with_another_number_of_arguments_is_told_which_it_takes() -> None:
    with pytest.raises(BadHandler, match=r"takes 3 arguments\. A handler takes exactly \(message, ctx\)"):
        Handlers[None]().on(Placed)(too_many)  # type: ignore[arg-type]


def test_a_route_must_name_fields_of_its_message() -> None:
    with pytest.raises(BadHandler, match="customer"):
        Handlers[None]().handles(Find, http=Route("GET /customers/{customer}"))(nothing)


@pytest.mark.parametrize("name", ["Stock", "stock_2", "", "stock-", "2stock", "a.b"])
def test_a_service_name_is_words_joined_by_hyphens(name: str) -> None:
    with pytest.raises(ServiceError, match="no service name"):
        Service(name)


def test_two_subscriptions_to_one_event_need_names() -> None:
    mail = Service("mail")
    mail.on(Placed)(nothing)
    mail.on(Placed)(nothing)

    with pytest.raises(BadHandler, match="name="):
        mail.check()


def test_a_command_is_handled_by_its_owner_alone() -> None:
    mail = Service("mail")
    mail.handles(Place)(nothing)

    with pytest.raises(BadHandler, match="only its owner 'orders'"):
        mail.check()


def test_a_period_of_nothing_is_refused() -> None:
    with pytest.raises(BadHandler, match="minutes=5"):
        Handlers[None]().every()
