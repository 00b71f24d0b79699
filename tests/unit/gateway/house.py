"""A gateway and a service behind it that answers as a test tells it, on a broker in memory.

The service's manifest is a real one; its answers are envelopes, so that a test decides what comes back and when.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from random import SystemRandom
from typing import Any
from uuid import UUID

import httpx
from fastapi import FastAPI
from pydantic import BaseModel, Field, SecretStr

from eventplat.broker.embedded import EmbeddedTransport
from eventplat.broker.embedded_broker import EmbeddedBroker
from eventplat.broker.topology import COMMANDS, QUERIES, REPLIES, Binding, Names, Queue, Topology
from eventplat.broker.transport import Delivery, Outgoing
from eventplat.discovery.announcer import Announcer
from eventplat.discovery.instance import Manifest
from eventplat.discovery.route import Route
from eventplat.gateway.app import create_app
from eventplat.messages.codec import to_envelope, to_properties
from eventplat.messages.envelope import DONE, Envelope
from eventplat.messages.ids import new_id
from eventplat.messages.message import Command, Event, Key, Query
from eventplat.security.keys import ensure_keys
from eventplat.service.context import Context
from eventplat.service.endpoint import manifest
from eventplat.service.service import Service
from eventplat.settings import Settings, load
from eventplat.testing.virtual_clock import VirtualClock

NAMES = Names("eventplat")
SECRET = "a-shared-secret-of-more-than-32-bytes"


class OrderPlaced(Event):
    order_id: str
    quantity: int


class Line(BaseModel):
    sku: str
    quantity: int = Field(1, ge=1)


class PlaceOrder(Command[OrderPlaced]):
    order_id: Key[str]
    quantity: int = Field(ge=1, le=1_000)
    lines: tuple[Line, ...] = ()
    price: Decimal | None = None


class CancelOrder(Command[None]):
    order_id: Key[str]


class StartRun(Command[OrderPlaced]):
    run: Key[UUID]


class GetOrder(Query[OrderPlaced]):
    order_id: str
    limit: int = 10
    full: bool = False
    tags: tuple[str, ...] = ()


shop = Service("shop")


@shop.handles(PlaceOrder, http=Route("POST /orders", status=201, wait=5), requires="orders:write")
async def place(command: PlaceOrder, ctx: Context) -> OrderPlaced:
    """Place an order."""
    raise AssertionError("announced, never run")


@shop.handles(CancelOrder, http=Route("DELETE /orders/{order_id}", idempotency_key="required"))
async def cancel(command: CancelOrder, ctx: Context) -> None:
    raise AssertionError("announced, never run")


@shop.handles(StartRun, http="PUT /runs/{run}")
async def start(command: StartRun, ctx: Context) -> OrderPlaced:
    raise AssertionError("announced, never run")


@shop.handles(GetOrder, http=Route("GET /orders/{order_id}", wait=3), requires="orders:read")
async def get(query: GetOrder, ctx: Context) -> OrderPlaced:
    raise AssertionError("announced, never run")


Answer = Callable[[Envelope], tuple[str, bytes] | None]


def done(_: Envelope) -> tuple[str, bytes]:
    return DONE, b'{"order_id": "o-1",   "quantity": 3}'


class House:
    """A gateway, its client, and the service."""

    http: httpx.AsyncClient

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.clock = VirtualClock()
        self.settings: Settings = load(data_dir=folder, **settings)
        self.keys = ensure_keys(self.settings)
        broker = EmbeddedBroker(None, clock=self.clock)
        self.near = EmbeddedTransport(broker, clock=self.clock, name="gateway")
        self.far = EmbeddedTransport(broker, clock=self.clock, name="shop")
        self.answer: Answer = done
        self.received: list[Envelope] = []
        self.deliveries: list[Delivery] = []
        self.app: FastAPI = create_app(self.settings, transport=self.near, clock=self.clock)
        self._stack = AsyncExitStack()
        self._replies: set[asyncio.Task[object]] = set()

    async def open(self) -> None:
        for transport in (self.near, self.far):
            await transport.open()
            self._stack.push_async_callback(transport.close)
        queues = (
            Queue("eventplat.shop", bindings=(Binding(NAMES.exchange(COMMANDS), "shop.#"),)),
            Queue("eventplat.shop.asked", "classic", (Binding(NAMES.exchange(QUERIES), "shop.#"),)),
        )
        await self.far.declare(Topology(NAMES.exchanges(), queues))
        for queue in queues:
            await self.far.consume(queue, self._receive, prefetch=100)
        await self._stack.enter_async_context(self.app.router.lifespan_context(self.app))
        self.shop = await self.announce(manifest(shop, "1.0"))
        inside = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.http = await self._stack.enter_async_context(httpx.AsyncClient(transport=inside, base_url="http://gateway"))

    async def close(self) -> None:
        await self._stack.aclose()

    async def announce(self, said: Manifest) -> Announcer:
        """A new instance of a service."""
        announcer = Announcer(
            self.far, NAMES, said, new_id(self.clock.time_us(), SystemRandom()), self.clock, 2.0,
            state=lambda: "ready", in_flight=lambda: 0, chance=SystemRandom(),
        )  # fmt: skip
        await announcer.start()
        self._stack.push_async_callback(announcer.stop)
        await self.turn()
        return announcer

    async def vanish(self) -> None:
        """The service dies: no last word, its queues stay."""
        await self.shop._loop.stop()
        await self.clock.advance(self.settings.process_term_s + 0.1)
        await self.turn()

    async def turn(self, times: int = 20) -> None:
        for _ in range(times):
            await asyncio.sleep(0)

    async def waiting(self, request: Awaitable[httpx.Response]) -> asyncio.Task[httpx.Response]:
        """A request on its way to the service, which does not answer yet."""
        task: asyncio.Task[httpx.Response] = asyncio.ensure_future(request)
        await self.turn()
        return task

    async def place(self, body: Any = None, *, content: bytes | None = None, **headers: str) -> httpx.Response:
        """POST /orders."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if content is not None:
            return await self.http.post("/orders", content=content, headers={"Content-Type": "application/json", **sent})
        return await self.http.post("/orders", json={"order_id": "o-1", "quantity": 3} if body is None else body, headers=sent)

    async def reply(self, to: Envelope, type_: str, body: bytes) -> None:
        own = new_id(self.clock.time_us(), SystemRandom())
        reply = Envelope(id=own, type=type_, body=body, correlation_id=to.correlation_id, causation=to.id)
        assert to.reply_to is not None
        await self.far.publish([Outgoing(NAMES.exchange(REPLIES), to.reply_to, to_properties(reply), body, persistent=False)])

    def _receive(self, delivery: Delivery) -> None:
        delivery.ack()
        self.deliveries.append(delivery)
        envelope = to_envelope(delivery.properties, delivery.body)
        self.received.append(envelope)
        said = self.answer(envelope)
        if said is not None:
            task = asyncio.ensure_future(self.reply(envelope, *said))
            self._replies.add(task)
            task.add_done_callback(self._replies.discard)


Test = Callable[..., Awaitable[None]]


def on_loop_with(**settings: Any) -> Callable[[Test], Callable[..., None]]:
    """Run an async test with an open house of these settings as its first argument."""

    async def run(test: Test, *args: Any, **kwargs: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            house = House(Path(folder), **settings)
            await house.open()
            try:
                await test(house, *args, **kwargs)
            finally:
                await house.close()

    def decorate(test: Test) -> Callable[..., None]:
        @functools.wraps(test)
        def wrapper(*args: Any, **kwargs: Any) -> None:
            asyncio.run(run(test, *args, **kwargs))

        signature = inspect.signature(test)
        fixtures = list(signature.parameters.values())[1:]  # pytest would take the house for one
        wrapper.__signature__ = signature.replace(parameters=fixtures)  # type: ignore[attr-defined]
        return wrapper

    return decorate


on_loop = on_loop_with()


def is_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The body of a problem, checked to be one."""
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json"), response.text
    problem: dict[str, Any] = json.loads(response.content)
    assert problem["code"] == code, problem
    assert problem["status"] == status
    assert problem["type"] == f"urn:eventplat:{code}"
    assert problem["title"]
    assert problem["next"], "it says what to do now"
    return problem


TOKENS: dict[str, Any] = {"jwt_key": SecretStr(SECRET), "jwt_algorithms": ("HS256",)}
