"""The table of routes: where a path leads, who keeps a route, and what is not served."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest

from eventplat.discovery.instance import AnnouncedHandler, AnnouncedRoute, Manifest
from eventplat.gateway.routes import Table


def handler(path: str, *, service: str = "shop", **changes: Any) -> AnnouncedHandler:
    method, _, template = path.partition(" ")
    route = AnnouncedRoute(method=method, template=template, status=changes.pop("status", 200), wait_s=1, idempotency_key="accepted")
    values = {
        "name": f"{service}.{path}", "kind": "command", "type": f"{service}.do.v1", "stream": "-", "key_field": None,
        "schema_": {}, "reply_schema": None, "route": route, **changes,
    }  # fmt: skip
    return AnnouncedHandler(**values)


def table(*paths: str, service: str = "shop") -> Table:
    return Table([Manifest(service=service, version="1", handlers=tuple(handler(path, service=service) for path in paths))])


def leads(found: Table, method: str, path: str) -> tuple[str, tuple[str, ...]] | None:
    match = found.match(path, method)
    return None if match is None or match.target is None else (match.target.handler.name.removeprefix("shop."), match.values)


def test_words_and_fields_lead_to_their_handler() -> None:
    found = table("POST /orders", "GET /orders/{id}", "GET /orders/{id}/lines/{line}", "GET /")

    assert leads(found, "POST", "/orders") == ("POST /orders", ())
    assert leads(found, "GET", "/orders/5") == ("GET /orders/{id}", ("5",))
    assert leads(found, "GET", "/orders/5/lines/7") == ("GET /orders/{id}/lines/{line}", ("5", "7"))
    assert leads(found, "GET", "/") == ("GET /", ())
    for path in ("/order", "/orders/5/lines", "/orders/5/lines/7/8", "/orders//lines/7", ""):
        assert found.match(path, "GET") is None or leads(found, "GET", path) is None


def test_a_word_wins_over_a_field_unless_only_the_field_has_the_method() -> None:
    found = table("POST /orders/search", "GET /orders/{id}", "GET /orders/recent")

    assert leads(found, "GET", "/orders/recent") == ("GET /orders/recent", ())
    assert leads(found, "GET", "/orders/search") == ("GET /orders/{id}", ("search",))
    assert leads(found, "POST", "/orders/search") == ("POST /orders/search", ())


def test_a_dead_end_among_words_does_not_hide_a_field() -> None:
    found = table("GET /a/b/c", "GET /{x}/b/d", "GET /a/{y}/e")

    assert leads(found, "GET", "/a/b/d") == ("GET /{x}/b/d", ("a",))
    assert leads(found, "GET", "/a/b/e") == ("GET /a/{y}/e", ("b",))


def test_another_method_is_told_all_methods_of_the_path() -> None:
    match = table("POST /orders/{id}", "DELETE /orders/{other}", "GET /orders/x").match("/orders/x", "PATCH")

    assert match is not None
    assert match.target is None
    assert match.methods == ("DELETE", "GET", "POST")


def test_fields_of_one_path_may_have_different_names() -> None:
    found = table("POST /orders/{id}", "DELETE /orders/{order_id}")

    matches = [found.match("/orders/5", method) for method in ("POST", "DELETE")]

    assert [match.target.fields for match in matches if match and match.target] == [("id",), ("order_id",)]


def test_who_announced_a_route_first_keeps_it_and_the_other_routes_are_served(caplog: pytest.LogCaptureFixture) -> None:
    manifests = [
        Manifest(service="zebra", version="1", handlers=(handler("POST /orders", service="zebra"),)),
        Manifest(service="ant", version="1", handlers=(handler("POST /orders", service="ant"), handler("POST /ants", service="ant"))),
    ]
    with caplog.at_level(logging.ERROR):
        found = Table(manifests)

    match = found.match("/orders", "POST")
    assert match is not None
    assert match.target is not None
    assert match.target.service == "zebra"
    assert found.match("/ants", "POST") is not None
    assert found.conflicts == ["POST /orders of ant is not served: zebra had announced it before"]
    assert found.conflicts[0] in caplog.text


def test_a_field_by_another_name_is_the_same_route() -> None:
    assert len(table("GET /orders/{id}", "GET /orders/{order_id}").conflicts) == 1


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (handler("POST orders"), "malformed"), (handler("FETCH /orders"), "malformed"), (handler("post /orders"), "malformed"),
        (handler("POST /orders/"), "malformed"), (handler("POST /a//b"), "malformed"), (handler("POST /{id"), "malformed"),
        (handler("POST /{Id}"), "malformed"), (handler("POST /a b"), "malformed"), (handler("POST "), "malformed"),
        (handler("POST /x", status=99), "malformed"), (handler("POST /x", status=302), "malformed"),
        (handler("GET /health/ready"), "the gateway has that path itself"), (handler("GET /operations/{id}"), "the gateway has"),
        (handler("GET /docs"), "the gateway has"), (handler("GET /openapi.json"), "the gateway has"),
        (handler("POST /x", type="payments.charge.v1"), "not a command or query of that service"),
        (handler("POST /x", type="do"), "not a command"), (handler("POST /x", type="shop.#.v1"), "not a command"),
        (handler("POST /x", kind="event"), "not a command"),
        (handler("POST /x", schema_={"type": "objekt"}), "its schema cannot be used"),
        (handler("POST /x", schema_={"$ref": "http://127.0.0.1:9/"}), "its schema cannot be used"),
    ],
    ids=lambda value: value.name if isinstance(value, AnnouncedHandler) else None,
)  # fmt: skip
def test_a_route_that_cannot_be_served_is_left_out_and_the_others_are_served(bad: AnnouncedHandler, reason: str) -> None:
    found = Table([Manifest(service="shop", version="1", handlers=(bad, handler("POST /good")))])

    assert leads(found, "POST", "/good") is not None
    assert len(found.targets) == 1
    assert len(found.conflicts) == 1
    assert reason in found.conflicts[0]


@pytest.mark.parametrize("path", ["/%FF", "/%00", "/%ED%A0%80"])
def test_a_value_that_is_no_text_is_refused(path: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of unquote, or ours
        table("GET /{id}").match(path, "GET")


def test_a_thousand_routes_cost_what_ten_do() -> None:
    steps(10)  # what is done once: caches of the libraries below

    assert steps(1_000) == steps(10)


def steps(count: int) -> int:
    """Lines that are run to find one of `count` routes."""
    found, lines = table(*(f"GET /service{number}/things/{{id}}" for number in range(count))), 0

    def count_lines(*_: object) -> Callable[..., Any]:
        nonlocal lines
        lines += 1
        return count_lines

    sys.settrace(count_lines)
    try:
        assert found.match("/service7/things/5", "GET") is not None
    finally:
        sys.settrace(None)
    return lines
