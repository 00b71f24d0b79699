"""A registry exchange in memory: announcers and registries on it, under a clock that a test moves."""

from __future__ import annotations

import asyncio
import functools
import inspect
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from eventplat.broker.embedded import EmbeddedTransport
from eventplat.broker.embedded_broker import EmbeddedBroker
from eventplat.broker.topology import REGISTRY, Binding, Names, Queue, Topology
from eventplat.broker.transport import Delivery, Outgoing
from eventplat.discovery.announcer import HEARTBEAT, MANIFEST, WHO, Announcer, State
from eventplat.discovery.instance import AnnouncedHandler, AnnouncedRoute, Manifest
from eventplat.discovery.registry import Registry
from eventplat.messages.codec import CONTENT_TYPE, Properties
from eventplat.testing.virtual_clock import VirtualClock

NAMES = Names("t")
HEARTBEAT_S = 2.0
TERM_S = 6.0


def manifest(service: str = "shop", version: str = "1.0", route: str | None = "POST /orders", name: str = "place-order") -> Manifest:
    method, _, template = (route or "").partition(" ")
    handler = AnnouncedHandler(
        name=f"{service}.{name}", kind="command", type=f"{service}.{name}.v1", stream="-", key_field=None,
        schema_={"type": "object", "properties": {}}, reply_schema=None,
        route=AnnouncedRoute(method=method, template=template, status=200, wait_s=10, idempotency_key="accepted") if route else None,
    )  # fmt: skip
    return Manifest(service=service, version=version, handlers=(handler,))


class Fanout:
    """One registry exchange, and who is on it."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self._broker = EmbeddedBroker(None, clock=self.clock)
        self.heard: list[tuple[str, bytes]] = []
        self._parts: list[Announcer | Registry] = []
        self._transports: list[EmbeddedTransport] = []

    async def open(self) -> None:
        self.transport = await self.link()
        await self.transport.declare(Topology(NAMES.exchanges()))
        queue = Queue("t.ear", "exclusive", (Binding(NAMES.exchange(REGISTRY), ""),))
        await self.transport.consume(queue, self._hear, prefetch=100)

    async def close(self) -> None:
        for part in self._parts:
            await part.stop()
        for transport in self._transports:
            await transport.close()

    async def link(self) -> EmbeddedTransport:
        transport = EmbeddedTransport(self._broker, clock=self.clock, name=f"link{len(self._transports)}")
        await transport.open()
        self._transports.append(transport)
        return transport

    async def announcer(self, said: Manifest | None = None, *, instance: str | None = None, state: State = "ready") -> Announcer:
        announcer = Announcer(
            await self.link(), NAMES, said or manifest(), instance or str(uuid4()), self.clock, HEARTBEAT_S,
            state=lambda: state, in_flight=lambda: 3, chance=random.Random(len(self._parts)),
        )  # fmt: skip
        self._parts.append(announcer)
        await announcer.start()
        await self.turn()
        return announcer

    async def registry(self, view_path: Path | None = None, listener: Callable[[], None] | None = None) -> Registry:
        registry = Registry(await self.link(), NAMES, self.clock, random.Random(len(self._parts)), term_s=TERM_S, view_path=view_path)
        if listener is not None:
            registry.on_change(listener)
        self._parts.append(registry)
        await registry.start()
        await self.turn()
        return registry

    async def leave(self, part: Announcer | Registry) -> None:
        self._parts.remove(part)
        await part.stop()
        await self.turn()

    async def vanish(self, announcer: Announcer) -> None:
        """As a killed process: no last word."""
        self._parts.remove(announcer)
        await announcer._loop.stop()
        assert announcer._subscription is not None
        await announcer._subscription.cancel()

    async def say(self, type_: str, body: bytes) -> None:
        properties = Properties(message_id=str(uuid4()), type=type_, content_type=CONTENT_TYPE)
        await self.transport.publish([Outgoing(NAMES.exchange(REGISTRY), "", properties, body, mandatory=False, persistent=False)])
        await self.turn()

    async def who(self) -> None:
        await self.say(WHO, b"{}")

    async def turn(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    def count(self, type_: str) -> int:
        return sum(heard == type_ for heard, _ in self.heard)

    @property
    def manifests(self) -> int:
        return self.count(MANIFEST)

    @property
    def heartbeats(self) -> int:
        return self.count(HEARTBEAT)

    def _hear(self, delivery: Delivery) -> None:
        delivery.ack()
        self.heard.append((delivery.properties.type or "", delivery.body))


def on_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test with an open fanout as its first argument."""

    async def run(*args: Any, **kwargs: Any) -> None:
        fanout = Fanout()
        await fanout.open()
        try:
            await test(fanout, *args, **kwargs)
        finally:
            await fanout.close()

    @functools.wraps(test)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        asyncio.run(run(*args, **kwargs))

    signature = inspect.signature(test)
    fixtures = list(signature.parameters.values())[1:]  # pytest would take the fanout for one
    wrapper.__signature__ = signature.replace(parameters=fixtures)  # type: ignore[attr-defined]
    return wrapper
