"""Routes: how they are written, and what is refused when a module is imported."""

from __future__ import annotations

from datetime import timedelta

import pytest

from eventplat.discovery.route import Route
from eventplat.errors import BadHandler
from eventplat.messages.message import Command, Key, Query


class Place(Command[None]):
    order_id: Key[str]
    line: int


class Get(Query[int]):
    order_id: str


def test_a_route_is_a_method_and_a_path_with_fields() -> None:
    route = Route("PUT /orders/{order_id}/lines/{line}")

    assert (route.method, route.template, route.fields) == ("PUT", "/orders/{order_id}/lines/{line}", ("order_id", "line"))
    route.check(Place)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/orders", "Write it as"),
        ("POST orders", "Write it as"),
        ("FETCH /orders", "Write it as"),
        ("post /orders", "Write it as"),
        ("POST  /orders", "Write it as"),
        ("POST /orders//x", "neither a word nor a"),
        ("POST /orders/{order_id", "neither a word nor a"),
        ("POST /orders/a{order_id}", "neither a word nor a"),
        ("POST /orders/*", "neither a word nor a"),
        ("POST /orders/{colour}", "is no field"),
        ("GET /orders/{order_id}", "its method is not GET"),
    ],
)
def test_a_route_that_cannot_be_served_is_refused_with_what_to_write(path: str, said: str) -> None:
    with pytest.raises(BadHandler, match=said):
        Route(path).check(Place)


def test_a_query_has_no_effect_and_is_a_get() -> None:
    Route("GET /orders/{order_id}").check(Get)
    with pytest.raises(BadHandler, match="its method is GET"):
        Route("POST /orders/{order_id}").check(Get)


@pytest.mark.parametrize(
    ("route", "said"),
    [
        (Route("POST /orders", status=199), "200 to 299"),
        (Route("POST /orders", status=300), "200 to 299"),
        (Route("POST /orders", status=409), "Rejected"),
        (Route("POST /orders", wait=-1), "waits 0 seconds or more"),
        (Route("POST /orders", wait=float("nan")), "waits 0 seconds or more"),
        (Route("POST /orders", wait=float("inf")), "waits 0 seconds or more"),
        (Route("POST /orders/{order_id}/of/{order_id}"), "stands there twice"),
    ],
)
def test_a_route_whose_answer_cannot_be_is_refused(route: Route, said: str) -> None:
    with pytest.raises(BadHandler, match=said):
        route.check(Place)


@pytest.mark.parametrize("route", [Route("POST /orders", status=200, wait=0), Route("POST /orders", status=299, wait=timedelta(minutes=1))])
def test_a_route_at_its_limits_is_served(route: Route) -> None:
    route.check(Place)
