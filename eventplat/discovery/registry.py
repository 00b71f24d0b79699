"""Registry: who is there and what they can do, as this process has heard it. There is no registry server.

An instance expires when it has not been heard for its term; its routes never vanish by that: a route without a living
instance answers 503 with Retry-After. The last view is kept on disk, so that a gateway which restarts while a
service is away still knows its routes.

While two releases of a service run side by side the higher version speaks for it; of the same version the one that was
heard of last, as long as one of its instances lives. So a rolling upgrade changes the routes once, not with each heartbeat.

Next: gateway.routes
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from eventplat.broker.topology import REGISTRY, Binding, Names, Queue
from eventplat.broker.transport import Delivery, Outgoing, Subscription, Transport
from eventplat.clock import Clock
from eventplat.discovery.announcer import ANNOUNCE_S, HEARTBEAT, MANIFEST, WHO
from eventplat.discovery.instance import Heartbeat, Manifest, digest_of
from eventplat.errors import BrokerUnavailable
from eventplat.lifecycle import Loop
from eventplat.messages.codec import CONTENT_TYPE, Properties
from eventplat.messages.ids import Chance, new_id

logger = logging.getLogger(__name__)

EVERY_S = 1.0
FORGOTTEN_TERMS = 10     # after so many terms without a heartbeat an instance is not even remembered


class Registry:
    """The view of one process.

    Args:
        term_s: Seconds after its last heartbeat that an instance counts as gone.
        view_path: Where the last view is kept; None: nowhere.
    """

    def __init__(
        self, transport: Transport, names: Names, clock: Clock, chance: Chance, *, term_s: float = 6.0, view_path: Path | None = None
    ) -> None:
        self._transport, self._clock, self._chance = transport, clock, chance
        self._term_s, self._view_path = term_s, view_path
        self._listeners: list[Callable[[], None]] = []
        self._exchange = names.exchange(REGISTRY)
        self._queue = Queue(names.waiting(f"{self._new_id()}.registry"), "exclusive", (Binding(self._exchange, ""),))
        self._heard: dict[str, tuple[Heartbeat, float]] = {}      # by instance
        self._manifests: dict[str, Manifest] = {}                 # by service: the newest announced
        self._digests: dict[str, str] = {}                        # by service: of that manifest, as it was said
        self._by_digest: dict[str, Manifest] = {}                 # in the order they were first heard
        self._unknown: set[str] = set()
        self._subscription: Subscription | None = None
        self._loop = Loop("registry", self._turn, every_s=EVERY_S, clock=clock)

    @property
    def manifests(self) -> tuple[Manifest, ...]:
        """One per service; the service that was heard first comes first, over restarts too."""
        return tuple(self._manifests.values())

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever manifests have changed."""
        self._listeners.append(listener)

    def instances(self, service: str) -> list[Heartbeat]:
        """The instances of `service` that are ready and were heard within their term."""
        now = self._clock.monotonic()
        return [
            heartbeat
            for heartbeat, at in self._heard.values()
            if heartbeat.service == service and heartbeat.state == "ready" and now - at < self._term_s
        ]

    async def start(self) -> None:
        self._load()
        self._subscription = await self._transport.consume(self._queue, self._receive, prefetch=1_000)
        await self._ask()
        await self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()
        if self._subscription is not None:
            await self._subscription.cancel()

    def _receive(self, delivery: Delivery) -> None:
        delivery.ack()
        try:
            if delivery.properties.type == HEARTBEAT:
                self._hear(Heartbeat.model_validate_json(delivery.body))
            elif delivery.properties.type == MANIFEST:
                self._learn(Manifest.model_validate_json(delivery.body), digest_of(delivery.body))
        except ValidationError as error:
            logger.warning("dropped an announcement that cannot be read: %s", error.error_count())

    def _hear(self, heartbeat: Heartbeat) -> None:
        if heartbeat.state == "stopped":
            self._heard.pop(heartbeat.instance, None)
            return
        self._heard[heartbeat.instance] = (heartbeat, self._clock.monotonic())
        if heartbeat.digest in self._by_digest:
            self._adopt(self._by_digest[heartbeat.digest], heartbeat.digest)
        else:
            self._unknown.add(heartbeat.digest)  # asked for in the next turn: its manifest may be on its way

    def _learn(self, manifest: Manifest, digest: str) -> None:
        self._by_digest.setdefault(digest, manifest)
        self._unknown.discard(digest)
        self._adopt(manifest, digest)

    def _adopt(self, manifest: Manifest, digest: str) -> None:
        """Let the newest version speak for its service while releases run side by side."""
        service = manifest.service
        if service in self._manifests and (self._digests[service] == digest or self._still_speaks(service, manifest, digest)):
            return
        self._manifests[service], self._digests[service] = manifest, digest
        self._keep()
        self._changed()

    def _still_speaks(self, service: str, other: Manifest, other_digest: str) -> bool:
        known, digest = self._manifests[service], self._digests[service]
        if digest not in {heartbeat.digest for heartbeat in self.instances(service)}:
            return False
        if known.version != other.version:
            return _order(known.version) > _order(other.version)
        heard = list(self._by_digest)
        return heard.index(digest) > heard.index(other_digest)

    def _changed(self) -> None:
        for listener in self._listeners:
            try:
                listener()
            except Exception:
                logger.exception("a listener failed on a change of the services' view")

    async def _turn(self) -> None:
        now = self._clock.monotonic()
        for instance, (_, at) in list(self._heard.items()):
            if now - at > self._term_s * FORGOTTEN_TERMS:
                del self._heard[instance]
        needed = set(self._digests.values()) | {heartbeat.digest for heartbeat, _ in self._heard.values()}
        for digest in self._by_digest.keys() - needed:
            del self._by_digest[digest]
        if self._unknown:
            await self._ask()
            self._unknown.clear()  # a heartbeat that is still not understood asks again

    async def _ask(self) -> None:
        properties = Properties(message_id=self._new_id(), type=WHO, content_type=CONTENT_TYPE)
        try:
            asked = Outgoing(self._exchange, "", properties, b"{}", mandatory=False, persistent=False)
            await self._transport.publish([asked], timeout_s=ANNOUNCE_S)
        except BrokerUnavailable as error:
            logger.info("could not ask who is there: %s", error)

    def _new_id(self) -> str:
        return new_id(self._clock.time_us(), self._chance)

    def _keep(self) -> None:
        if self._view_path is None:
            return
        draft = self._view_path.with_suffix(f".{self._new_id()}")  # of this process: another one may keep its view here too
        try:
            draft.write_text(json.dumps([manifest.model_dump(mode="json") for manifest in self.manifests]))
            draft.replace(self._view_path)
        except OSError as error:
            logger.warning("the view of the services could not be kept: %s", error)
            draft.unlink(missing_ok=True)

    def _load(self) -> None:
        if self._view_path is None or not self._view_path.exists():
            return
        try:
            for value in json.loads(self._view_path.read_text()):
                manifest = Manifest.model_validate(value)
                self._manifests[manifest.service] = self._by_digest[manifest.digest] = manifest
                self._digests[manifest.service] = manifest.digest
        except (OSError, ValueError, TypeError) as error:  # a ValidationError is a ValueError
            logger.warning("the kept view of the services cannot be read: %s", error)
        self._changed()


def _order(version: str) -> list[tuple[int, str]]:
    """So that 0.10 comes after 0.9."""
    return [(int(digits or 0), text) for digits, text in re.findall(r"(\d{1,9})?([^\d.]*)\.?", version)]
