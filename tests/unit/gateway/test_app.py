"""The app around the announced routes: health, docs, routes of your own, and a problem for whatever goes wrong."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from fastapi import HTTPException, Request
from pydantic import SecretStr

from eventplat.discovery.instance import AnnouncedHandler, AnnouncedRoute, Manifest
from eventplat.errors import SettingsError
from eventplat.gateway.app import create_app
from eventplat.settings import load
from tests.unit.gateway.house import House, is_problem, on_loop, on_loop_with


def test_the_gateway_names_its_broker_user_as_the_broker_knows_it(tmp_path: Path) -> None:
    app = create_app(load(data_dir=tmp_path, profile="dev", broker_url=SecretStr("amqp://gate%40shop:p%2Fw@localhost:5672/")))

    assert app.state.forwarder.user_id == "gate@shop"


def announced(service: str, path: str) -> Manifest:
    method, _, template = path.partition(" ")
    handler = AnnouncedHandler(
        name=f"{service}.do", kind="command", type=f"{service}.do.v1", stream="-", key_field=None, schema_={"type": "object"},
        reply_schema=None, route=AnnouncedRoute(method=method, template=template, status=200, wait_s=1, idempotency_key="accepted"),
    )  # fmt: skip
    return Manifest(service=service, version="1", handlers=(handler,))


@on_loop
async def test_health_says_that_the_process_lives_and_whom_it_has_heard(house: House) -> None:
    live, ready = await house.http.get("/health/live"), await house.http.get("/health/ready")

    assert (live.status_code, live.json()) == (200, {"status": "live"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "instances": {"shop": 1}})


@pytest.mark.parametrize("state", ["blocked", "disconnected"])
@on_loop
async def test_a_gateway_whose_broker_takes_nothing_lives_and_is_not_ready(
    house: House, state: Literal["blocked", "disconnected"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(house.near), "state", property(lambda _: state))

    response = await house.http.get("/health/ready")

    assert state in is_problem(response, 503, "EP812")["detail"]
    assert response.headers["retry-after"] == "1"
    assert (await house.http.get("/health/live")).status_code == 200


@on_loop
async def test_a_new_service_is_in_the_docs_at_once(house: House) -> None:
    assert "/parcels" not in (await house.http.get("/openapi.json")).json()["paths"]

    await house.announce(announced("parcels", "POST /parcels"))

    assert "post" in (await house.http.get("/openapi.json")).json()["paths"]["/parcels"]


@on_loop
async def test_the_docs_need_nothing_from_elsewhere(house: House) -> None:
    page = await house.http.get("/docs")

    assert page.status_code == 200
    assert "http://" not in page.text
    assert "https://" not in page.text
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert asset in page.text
        assert (await house.http.get(f"/docs/assets/{asset}")).status_code == 200


@on_loop
async def test_two_services_with_one_route_are_told_in_the_log_and_in_health(house: House, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        await house.announce(announced("aaa", "POST /orders"))

    conflict = "POST /orders of aaa is not served: shop had announced it before"
    assert (await house.http.get("/health/ready")).json()["conflicts"] == [conflict]
    assert conflict in caplog.text
    assert (await house.place()).status_code == 201
    assert house.received[0].type == "shop.place-order.v1"


@on_loop
async def test_a_service_cannot_take_the_gateways_own_paths(house: House) -> None:
    await house.announce(announced("evil", "GET /health/ready"))

    assert (await house.http.get("/health/ready")).json()["status"] == "ready"


@on_loop
async def test_a_service_with_a_schema_that_is_none_does_not_keep_others_from_being_served(house: House) -> None:
    broken = announced("broken", "POST /broken")
    await house.announce(broken.model_copy(update={"handlers": (broken.handlers[0].model_copy(update={"schema_": {"type": 5}}),)}))
    await house.announce(announced("parcels", "POST /parcels"))

    assert "/parcels" in (await house.http.get("/openapi.json")).json()["paths"]
    assert "broken" in (await house.http.get("/health/ready")).json()["conflicts"][0]


@on_loop
async def test_routes_of_your_own_are_served_and_their_errors_are_problems(house: House) -> None:
    @house.app.get("/hello")
    async def hello(times: int) -> dict[str, int]:
        return {"times": times}

    @house.app.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(418, "short and stout", headers={"X-Spout": "yes"})

    @house.app.get("/bug")
    async def bug() -> None:
        raise ZeroDivisionError("secret detail")

    assert (await house.http.get("/hello?times=3")).json() == {"times": 3}
    assert is_problem(await house.http.get("/hello?times=x"), 422, "EP809")["errors"][0]["pointer"] == "/query/times"
    response = await house.http.get("/teapot")
    assert is_problem(response, 418, "EP800")["detail"] == "short and stout"
    assert response.headers["x-spout"] == "yes"
    assert "secret" not in str(is_problem(await house.http.get("/bug"), 500, "EP800"))


@on_loop_with(body_bytes_max=1_024)
async def test_routes_of_your_own_have_the_same_limit(house: House) -> None:
    @house.app.post("/upload")
    async def upload(request: Request) -> int:
        return len(await request.body())

    assert (await house.http.post("/upload", content=b"x" * 1_024)).json() == 1_024
    is_problem(await house.http.post("/upload", content=b"x" * 1_025), 413, "EP806")


@on_loop
async def test_no_method_of_a_path_of_the_gateway_is_told_with_those_there_are(house: House) -> None:
    response = await house.http.delete("/operations/x")

    is_problem(response, 405, "EP804")
    assert response.headers["allow"] == "GET"


@pytest.mark.parametrize("missing", ["operation_key", "grant_key"])
def test_a_gateway_in_production_without_its_keys_does_not_start(missing: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"grant_public_key": None, "operation_key": "o" * 32, "grant_key": None}
    given.pop(missing)

    with pytest.raises(SettingsError, match="EVENTPLAT_"):
        create_app(load(profile="production", broker_url="amqp://b/", database_url="postgresql://d/", data_dir=tmp_path, **given))


@on_loop
async def test_a_gateway_that_starts_again_knows_its_routes_before_it_hears_anybody(house: House) -> None:
    app = create_app(house.settings, transport=house.near, clock=house.clock)
    await house.shop._loop.stop()

    async def deaf(*_: object, **__: object) -> None:
        return None

    forwarder = app.state.forwarder
    forwarder.registry._ask = deaf
    async with app.router.lifespan_context(app):
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")
        is_problem(await client.post("/orders", json={"order_id": "o-1", "quantity": 3}), 503, "EP811")
