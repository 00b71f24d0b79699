"""Announcer: says that this instance is here, and on request what it can do.

Heartbeats are small and transient, on the `registry` fanout exchange; the manifest goes out at start and whenever
somebody asks, at most once a second. Who is asked waits a moment by chance, and keeps silent when another instance
has said the same meanwhile: an answer costs one manifest, not one for each instance. The last heartbeat says
`stopped`, so that nobody waits for an expiry.

Next: discovery.registry
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from pydantic import ValidationError

from eventplat.broker.topology import REGISTRY, Binding, Names, Queue
from eventplat.broker.transport import Delivery, Outgoing, Subscription, Transport
from eventplat.clock import Clock
from eventplat.discovery.instance import Heartbeat, Manifest
from eventplat.errors import BrokerUnavailable
from eventplat.lifecycle import Loop
from eventplat.messages.codec import CONTENT_TYPE, Properties
from eventplat.messages.ids import Chance, new_id

logger = logging.getLogger(__name__)

HEARTBEAT = "eventplat.heartbeat.v1"
MANIFEST = "eventplat.manifest.v1"
WHO = "eventplat.who.v1"
MANIFEST_EVERY_S = 1.0
JITTER_S = 0.2           # an answer waits at most this long
ANNOUNCE_S = 2.0         # for the broker to take an announcement: the next one comes soon

State = Literal["ready", "draining", "stopped"]


class Announcer:
    """Announces one instance of one service."""

    def __init__(
        self, transport: Transport, names: Names, manifest: Manifest, instance: str, clock: Clock, heartbeat_s: float, *,
        state: Callable[[], State], in_flight: Callable[[], int], chance: Chance,
        on_manifest: Callable[[Manifest], None] | None = None,
    ) -> None:  # fmt: skip
        self._transport, self._manifest, self._instance, self._clock = transport, manifest, instance, clock
        self._exchange = names.exchange(REGISTRY)
        self._state, self._in_flight = state, in_flight
        self._digest = manifest.digest
        self._chance = chance
        self._on_manifest = on_manifest
        self._said = manifest.model_dump_json().encode()
        self._told_at = float("-inf")     # when the manifest was last heard of, from here or another instance
        self._due_at: float | None = clock.monotonic()   # when the manifest is to be said; None: nobody asks
        self._every_s = heartbeat_s
        self._loop = Loop(f"{manifest.service} heartbeat", self._turn, every_s=heartbeat_s, clock=clock)
        self._queue = Queue(names.waiting(f"{self._new_id()}.who"), "exclusive", (Binding(self._exchange, ""),))
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

    async def ask(self) -> None:
        """Have everybody say what it can do."""
        await self._say(WHO, b"{}")

    def _receive(self, delivery: Delivery) -> None:
        delivery.ack()
        if delivery.properties.type == MANIFEST and self._on_manifest is not None:
            self._tell(delivery.body)
        now = self._clock.monotonic()
        if delivery.properties.type == WHO and self._due_at is None:
            moment = JITTER_S * self._chance.getrandbits(16) / 65_536
            self._due_at = max(now + moment, self._told_at + MANIFEST_EVERY_S)
            self._loop.wake()
        elif delivery.properties.type == MANIFEST and delivery.body == self._said:
            self._due_at, self._told_at = None, now

    def _tell(self, body: bytes) -> None:
        assert self._on_manifest is not None  # noqa: S101 - asked before
        try:
            manifest = Manifest.model_validate_json(body)
        except ValidationError as error:
            logger.warning("dropped a manifest that cannot be read: %s", error.error_count())
        else:
            self._on_manifest(manifest)

    async def _turn(self) -> float | None:
        now = self._clock.monotonic()
        if self._due_at is not None and self._due_at <= now:
            self._due_at, self._told_at = None, now
            await self._say(MANIFEST, self._said)
        await self._say(HEARTBEAT, self._heartbeat(self._state()))
        return None if self._due_at is None else min(max(self._due_at - now, 0), self._every_s)

    def _heartbeat(self, state: State) -> bytes:
        heartbeat = Heartbeat(
            service=self._manifest.service, version=self._manifest.version, instance=self._instance,
            digest=self._digest, state=state, in_flight=self._in_flight(),
        )  # fmt: skip
        return heartbeat.model_dump_json().encode()

    def _new_id(self) -> str:
        return new_id(self._clock.time_us(), self._chance)

    async def _say(self, type_: str, body: bytes) -> None:
        properties = Properties(message_id=self._new_id(), type=type_, content_type=CONTENT_TYPE)
        said = Outgoing(self._exchange, "", properties, body, mandatory=False, persistent=False)
        try:
            await self._transport.publish([said], timeout_s=ANNOUNCE_S)
        except BrokerUnavailable as error:
            logger.info("%s could not announce itself: %s", self._manifest.service, error)
