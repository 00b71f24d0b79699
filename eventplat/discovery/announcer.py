"""Announcer: says that this instance is here, and on request what it can do.

Heartbeats are small and transient, on the `registry` fanout exchange; the manifest goes out at start and whenever
somebody asks, at most once a second. The last heartbeat says `stopped`, so that nobody waits for an expiry.

Next: discovery.registry
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal
from uuid import uuid4

from pydantic import BaseModel

from eventplat.broker.topology import REGISTRY, Binding, Names, Queue
from eventplat.broker.transport import Delivery, Outgoing, Subscription, Transport
from eventplat.clock import Clock
from eventplat.discovery.instance import Heartbeat, Manifest
from eventplat.errors import BrokerUnavailable
from eventplat.lifecycle import Loop
from eventplat.messages.codec import CONTENT_TYPE, Properties

logger = logging.getLogger(__name__)

HEARTBEAT = "eventplat.heartbeat.v1"
MANIFEST = "eventplat.manifest.v1"
WHO = "eventplat.who.v1"
MANIFEST_EVERY_S = 1.0

State = Literal["ready", "draining", "stopped"]


class Announcer:
    """Announces one instance of one service."""

    def __init__(
        self, transport: Transport, names: Names, manifest: Manifest, instance: str, clock: Clock, heartbeat_s: float, *,
        state: Callable[[], State], in_flight: Callable[[], int],
    ) -> None:  # fmt: skip
        self._transport, self._manifest, self._instance, self._clock = transport, manifest, instance, clock
        self._exchange = names.exchange(REGISTRY)
        self._state, self._in_flight = state, in_flight
        self._digest = manifest.digest
        self._told_at = float("-inf")
        self._is_asked = True             # the manifest is due
        self._loop = Loop(f"{manifest.service} heartbeat", self._turn, every_s=heartbeat_s, clock=clock)
        self._queue = Queue(names.waiting(f"{uuid4()}.who"), "exclusive", (Binding(self._exchange, ""),))
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        self._subscription = await self._transport.consume(self._queue, self._receive, prefetch=100)
        await self._turn()
        await self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()
        await self._say(HEARTBEAT, self._heartbeat("stopped"))
        if self._subscription is not None:
            await self._subscription.cancel()

    def _receive(self, delivery: Delivery) -> None:
        delivery.ack()
        if delivery.properties.type == WHO:
            self._is_asked = True
            self._loop.wake()

    async def _turn(self) -> float | None:
        wait_s = None
        if self._is_asked:
            since = self._clock.monotonic() - self._told_at
            if since >= MANIFEST_EVERY_S:
                self._is_asked, self._told_at = False, self._clock.monotonic()
                await self._say(MANIFEST, self._manifest)
            else:
                wait_s = MANIFEST_EVERY_S - since
        await self._say(HEARTBEAT, self._heartbeat(self._state()))
        return wait_s

    def _heartbeat(self, state: State) -> Heartbeat:
        return Heartbeat(
            service=self._manifest.service, version=self._manifest.version, instance=self._instance,
            digest=self._digest, state=state, in_flight=self._in_flight(),
        )  # fmt: skip

    async def _say(self, type_: str, value: BaseModel) -> None:
        properties = Properties(message_id=str(uuid4()), type=type_, content_type=CONTENT_TYPE)
        said = Outgoing(self._exchange, "", properties, value.model_dump_json().encode(), mandatory=False, persistent=False)
        try:
            await self._transport.publish([said])
        except BrokerUnavailable as error:
            logger.info("%s could not announce itself: %s", self._manifest.service, error)
