"""The gateway before a real service, on both brokers: idempotency, operations, refusals, and services that come and go."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventplat.discovery.route import Route
from eventplat.errors import Rejected
from eventplat.gateway.forward import KEY_CHARS_MAX
from eventplat.messages.message import Command, Event, Key, Query
from eventplat.process import Process
from eventplat.retry import Retry
from eventplat.sagas.saga import Saga
from eventplat.service.context import Context
from eventplat.service.service import Service
from eventplat.settings import Settings, load
from tests.servers import rabbitmq_url

PATIENCE_S = 20.0
FOUND_S = 5.0        # within which a new service is to be found


class Placed(Event):
    order_id: str
    number: int


class Place(Command[Placed]):
    order_id: Key[str]
    quantity: int = 1


class Fail(Command[None]):
    order_id: Key[str]


class Find(Query[Placed]):
    order_id: str


class Ship(Command[None]):
    parcel: str


class Deliver(Command[Placed]):
    order_id: Key[str]
    quantity: int = 1


class Fetch(Command[None], name="depot.fetch"):
    order_id: Key[str]


class Shop:
    """What the service's handlers share with a test."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.fetching: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()


def shop_of(state: Shop) -> Service[Any]:
    shop = Service("shop")

    @shop.handles(Place, http=Route("POST /orders", status=201, wait=10))
    async def place(command: Place, ctx: Context) -> Placed:
        await state.gate.wait()
        state.runs.append(command.order_id)
        if command.quantity > 100:
            raise Rejected("too_many", limit=100)
        return Placed(order_id=command.order_id, number=len(state.runs))

    @shop.saga(Deliver, http=Route("POST /deliveries", status=201, wait=20))
    async def deliver(command: Deliver, saga: Saga) -> Placed:
        await saga.call(Fetch(order_id=command.order_id))
        return Placed(order_id=command.order_id, number=command.quantity)

    @shop.handles(Fail, http="POST /failures", retry=Retry(attempts=1))
    async def fail(command: Fail, ctx: Context) -> None:
        raise ValueError("broken inside")

    @shop.handles(Find, http="GET /orders/{order_id}")
    async def find(query: Find, ctx: Context) -> Placed:
        if query.order_id not in state.runs:
            raise Rejected("no_such_order", status=404)
        return Placed(order_id=query.order_id, number=state.runs.count(query.order_id))

    return shop


def depot_of(state: Shop) -> Service[Any]:
    depot = Service("depot")

    @depot.handles(Fetch, retry=Retry(attempts=1_000, first=0.1, longest=0.1))
    async def fetch(command: Fetch, ctx: Context) -> None:
        state.fetching.add(command.order_id)
        if not state.gate.is_set():
            raise RuntimeError("not yet")  # SQLite has one writer: a handler that waits would keep the others from beginning

    return depot


def parcels() -> Service[Any]:
    service = Service("parcels")

    @service.handles(Ship, http="POST /parcels")
    async def ship(command: Ship, ctx: Context) -> None: ...

    return service


class Stand:
    """A running shop, its gateway, and a client."""

    def __init__(self, settings: Settings, http: httpx.AsyncClient, shop: Shop) -> None:
        self.settings, self.http, self.shop = settings, http, shop

    async def place(self, order_id: str, key: str | None = None, *, prefer: str = "", **fields: Any) -> httpx.Response:
        headers = {"Prefer": prefer, **({} if key is None else {"Idempotency-Key": key})}
        return await self.http.post("/orders", json={"order_id": order_id, **fields}, headers=headers)


@asynccontextmanager
async def standing(kind: str, folder: Path) -> AsyncIterator[Stand]:
    broker = {"profile": "dev", "broker_url": rabbitmq_url(), "prefix": f"t{uuid.uuid4().hex[:8]}"} if kind == "rabbitmq" else {}
    settings, shop = load(data_dir=folder, gateway_port=0, **broker), Shop()
    process = Process([shop_of(shop), depot_of(shop)], settings=settings)
    await process.start()
    try:
        async with httpx.AsyncClient(base_url=process.url, timeout=PATIENCE_S) as http:
            for service in ("shop", "depot"):
                await until(partial(has_instance, http, service))
            yield Stand(settings, http, shop)
    finally:
        shop.gate.set()
        await process.stop()


def on_both(test: Callable[[Stand], Awaitable[None]]) -> Callable[[str, Path], None]:
    @pytest.mark.parametrize("kind", ["embedded", "rabbitmq"])
    def wrapper(kind: str, tmp_path: Path) -> None:
        async def run() -> None:
            async with standing(kind, tmp_path) as stand:
                await test(stand)

        asyncio.run(run())

    wrapper.__name__, wrapper.__doc__ = test.__name__, test.__doc__
    return wrapper


async def has_instance(http: httpx.AsyncClient, service: str) -> bool:
    return bool((await http.get("/health/ready")).json().get("instances", {}).get(service))


async def until(probe: Callable[[], Awaitable[bool]], seconds: float = PATIENCE_S) -> None:
    async with asyncio.timeout(seconds):
        while not await probe():
            await asyncio.sleep(0.02)


@on_both
async def test_a_key_runs_once_and_is_answered_again_byte_for_byte(stand: Stand) -> None:
    first, second = await stand.place("o-1", "k"), await stand.place("o-1", "k")

    assert (first.status_code, first.json()) == (201, {"order_id": "o-1", "number": 1})
    assert (second.status_code, second.content) == (201, first.content)
    assert second.headers["operation-id"] == first.headers["operation-id"]
    assert stand.shop.runs == ["o-1"]


@on_both
async def test_fifty_copies_at_once_run_once(stand: Stand) -> None:
    responses = await asyncio.gather(*(stand.place("o-1", "k") for _ in range(50)))

    assert stand.shop.runs == ["o-1"]
    assert {response.status_code for response in responses} <= {201, 409}
    assert len({response.content for response in responses if response.status_code == 201}) == 1


@on_both
async def test_the_same_key_with_another_body_is_422_and_changes_nothing(stand: Stand) -> None:
    await stand.place("o-1", "k")

    other = await stand.place("o-2", "k")

    assert (other.status_code, other.json()["reason"]) == (422, "other_body")
    assert stand.shop.runs == ["o-1"]


@on_both
async def test_while_the_first_waits_for_its_saga_each_under_its_key_is_told_its_own(stand: Stand) -> None:
    """Six keys side by side: 409 for the copies, 422 for other bodies, and the outcome for those who came first."""
    keys = [f"o-{n}" for n in range(6)]
    stand.shop.gate.clear()

    async def deliver(key: str, quantity: int = 1) -> httpx.Response:
        return await stand.http.post("/deliveries", json={"order_id": key, "quantity": quantity}, headers={"Idempotency-Key": key})

    firsts = [asyncio.create_task(deliver(key)) for key in keys]

    async def have_begun() -> bool:
        return stand.shop.fetching == set(keys)

    await until(have_begun)
    told = await asyncio.gather(*(deliver(key, quantity) for key in keys for quantity in (1, 2, 1, 2)))
    copies, others = told[::2], told[1::2]
    still_waiting = [not first.done() for first in firsts]
    stand.shop.gate.set()
    answers = await asyncio.gather(*firsts)

    assert [response.json().get("code") for response in copies] == ["EP805"] * 12
    assert [(response.status_code, response.json().get("reason")) for response in others] == [(422, "other_body")] * 12
    assert all(still_waiting)
    assert [(answer.status_code, answer.json()) for answer in answers] == [(201, {"order_id": key, "number": 1}) for key in keys]
    for key, answer in zip(keys, answers, strict=True):
        assert (await deliver(key)).content == answer.content
        outcome = (await stand.http.get(f"/operations/{answer.headers['operation-id']}")).json()
        assert outcome == {"status": "done", "result": answer.json()}


@on_both
async def test_a_rejection_is_an_outcome_and_is_told_again(stand: Stand) -> None:
    first, second = await stand.place("o-1", "k", quantity=101), await stand.place("o-1", "k", quantity=101)

    assert (first.status_code, first.json()["reason"], first.json()["limit"]) == (409, "too_many", 100)
    assert second.content == first.content


@on_both
async def test_what_outlives_the_wait_is_followed_as_an_operation_on_any_replica(stand: Stand) -> None:
    stand.shop.gate.clear()
    accepted = await stand.place("o-1", "k", prefer="wait=0")
    location = accepted.headers["location"]
    assert accepted.status_code == 202
    assert (await stand.http.get(location)).json() == {"status": "running"}

    stand.shop.gate.set()

    async def is_done() -> bool:
        return bool((await stand.http.get(location)).json() == {"status": "done", "result": {"order_id": "o-1", "number": 1}})

    await until(is_done)
    assert stand.shop.runs == ["o-1"]
    if not stand.settings.is_embedded:  # an embedded broker is of one process
        replica = Process([], settings=stand.settings)
        await replica.start()
        try:
            async with httpx.AsyncClient(base_url=replica.url, timeout=PATIENCE_S) as http:
                assert (await http.get(location)).json()["status"] == "done"
        finally:
            await replica.stop()


@on_both
async def test_a_failure_is_a_problem_and_so_is_its_operation(stand: Stand) -> None:
    response = await stand.http.post("/failures", json={"order_id": "o-1"}, headers={"Idempotency-Key": "k"})

    assert (response.status_code, response.json()["code"]) == (500, "EP702")
    told = (await stand.http.get(f"/operations/{response.headers['operation-id']}")).json()
    assert (told["status"], told["problem"]["code"]) == ("failed", "EP702")


@on_both
async def test_a_query_is_answered_or_refused(stand: Stand) -> None:
    await stand.place("o-1")

    assert (await stand.http.get("/orders/o-1")).json() == {"order_id": "o-1", "number": 1}
    missing = await stand.http.get("/orders/o-2")
    assert (missing.status_code, missing.json()["reason"]) == (404, "no_such_order")


@on_both
async def test_the_longest_values_that_are_let_through_do_not_break_the_link(stand: Stand) -> None:
    longest = await stand.place("😀" * KEY_CHARS_MAX, "~" * 255)
    longer = await stand.place("x" * 200_000)
    after = await stand.place("o-1")

    assert [response.status_code for response in (longest, longer, after)] == [201, 422, 201]


def test_the_first_request_finds_every_service_of_its_own_process(tmp_path: Path) -> None:
    async def start() -> None:
        process = Process([parcels(), shop_of(Shop())], settings=load(data_dir=tmp_path, gateway_port=0))
        await process.start()
        try:
            async with httpx.AsyncClient(base_url=process.url, timeout=PATIENCE_S) as http:
                assert (await http.get("/orders/o-1")).json()["reason"] == "no_such_order"
                assert (await http.post("/parcels", json={"parcel": "p"})).status_code == 204
        finally:
            await process.stop()

    asyncio.run(start())


@on_both
async def test_a_new_service_is_found_within_seconds_and_its_routes_outlive_it(stand: Stand) -> None:
    joined = Process([parcels()], settings=stand.settings, gateway=False)
    await joined.start()
    try:
        async def is_documented() -> bool:
            return "/parcels" in (await stand.http.get("/openapi.json")).json()["paths"]

        await until(is_documented, FOUND_S)
        assert (await stand.http.post("/parcels", json={"parcel": "p"})).status_code == 204
    finally:
        await joined.stop()

    async def is_away() -> bool:
        return not await has_instance(stand.http, "parcels")

    await until(is_away, FOUND_S)
    response = await stand.http.post("/parcels", json={"parcel": "p"})
    assert (response.status_code, response.json()["code"], response.headers["retry-after"]) == (503, "EP811", "1")
    assert await is_documented()
