"""Runner: one service in one process, from its tables and queues to its heartbeats.

Start, bottom up: tables checked (or made), this process as the owner of its rows, dispatch and relay,
queues checked (or made), the handlers' state, consumers, retries and timers, then the first heartbeat.
Stop is the reverse: the heartbeat says `draining`, nothing new is taken, what runs is finished and sent.

Next: service.pipeline
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from eventplat.broker.consumer import Consumer, one_by_one
from eventplat.broker.topology import Names, Queue, Topology
from eventplat.broker.transport import Delivery, Transport
from eventplat.clock import Clock
from eventplat.discovery.announcer import Announcer
from eventplat.errors import ForeignQueueMissing, TopologyMissing
from eventplat.lifecycle import Component, stop_all
from eventplat.messages.ids import Chance
from eventplat.sagas.orchestrator import Orchestrator
from eventplat.security.grant import GrantVerifier
from eventplat.service.asking import Asker
from eventplat.service.batches import Batches
from eventplat.service.call import Caller
from eventplat.service.direct import Direct
from eventplat.service.endpoint import Endpoint, endpoints, manifest, operations_queue, owners, partitions_there, replies_queue, topology
from eventplat.service.former import Former
from eventplat.service.outgoing import Outgoings
from eventplat.service.partitions import Partitions
from eventplat.service.pausing import Pausing
from eventplat.service.pipeline import Pipeline
from eventplat.service.queries import Queries
from eventplat.service.retries import Retries
from eventplat.service.service import Service
from eventplat.service.ticks import Ticker
from eventplat.settings import Settings
from eventplat.transactions import watermark

logger = logging.getLogger(__name__)

ANSWERS_PER_START = 5   # places for answers to sagas, for each place that begins one
PARTITION_PREFETCH = 4  # at least: what is handed over, or comes again after a kill, is as little as keeps one handler busy
BATCHES_AHEAD = 2   # delivered while one runs, so that the next can begin at once


class Runner:
    """Runs `service` on `transport` until stopped."""

    def __init__(
        self,
        service: Service[Any],
        settings: Settings,
        transport: Transport,
        verifier: GrantVerifier | None,
        *,
        clock: Clock,
        chance: Chance,
        beside: Sequence[Service[Any]] = (),
    ) -> None:
        self.service = service
        self._settings, self._transport, self._clock = settings, transport, clock
        self.names = Names(settings.prefix)
        self.out = Outgoings(service, settings, transport, owners=owners(service, *beside), clock=clock, chance=chance)
        self._endpoints = endpoints(service)
        self._caller = Caller(service, self._endpoints, self.out.transactions, verifier, settings, clock)
        self._asker = self._caller.asker = Asker(transport, self.out.sender)
        self.pipeline = Pipeline(self.out.transactions, self._caller)
        self._queries = Queries(self.out.transactions, self._caller)
        self._direct = Direct(self.out.sender, self._caller, transport, self.out.answers)
        self._pausing = Pausing(self.out.apart, service.name, clock)
        self._retries = Retries(self.pipeline, self._endpoints, clock, paused=lambda: self._pausing.handlers)
        self._ticker = Ticker(service, self.out.transactions, self._caller, clock)
        self._consumers: list[Consumer | Partitions] = []
        self._there: dict[str, int] = {}         # partition queues of each ordered handler
        former = {
            endpoint.identity: [self._consumer_of(endpoint, queue) for queue in endpoint.former_queues(self.names)]
            for endpoint in self._endpoints
        }
        self.out.held.is_drained = self._is_drained
        self._former = Former(transport, former, clock, paused=lambda: self._pausing.handlers)
        self._state = AsyncExitStack()
        self._is_draining = False
        self._announcer = Announcer(
            transport, self.names, manifest(service, _version()), self.out.owner.id, clock, settings.heartbeat_s,
            state=lambda: "draining" if self._is_draining else "ready", in_flight=lambda: self.in_flight, chance=chance,
            on_manifest=self.out.unrouted.hear if service.has_database else None,
        )  # fmt: skip
        # a service without a database has nothing to own, relay, retry or time; an unopened pool costs nothing
        self._working: list[Component] = [self._retries, self._caller, self._ticker, self._pausing] if service.has_database else []

    @property
    def in_flight(self) -> int:
        """Messages that are here: being handled, or about to be."""
        return sum(consumer.in_flight for consumer in self._every_consumer)

    @property
    def sagas(self) -> Orchestrator | None:
        """What runs this service's sagas, for operators; None where it has none."""
        return self._caller.orchestrator

    def missing(self) -> list[str]:
        """What keeps this service from its work: consumers that the broker does not count, a database that does not hear it."""
        waiting = [consumer for consumer in self._consumers if not (consumer.is_active or consumer.is_paused)]
        found = [f"no consumer of {consumer.queue.name}" for consumer in waiting]
        if not self._consumers:
            found.append("it has not started")
        if self.service.has_database and not self.out.owner.may_publish:
            found.append("its database has not taken its heartbeat")
        return found

    @property
    def paused(self) -> frozenset[str]:
        """The identities of the handlers that an operator has paused."""
        return self._pausing.handlers

    async def depths(self) -> dict[str, int]:
        """Messages ready in each queue of this service, but those of paused handlers."""
        queues = [queue for consumer in self._every_consumer if not consumer.is_paused for queue in consumer.queues]
        return {queue: await self._transport.depth(queue) or 0 for queue in queues}

    async def start(self) -> None:
        if self.service.has_database:
            await self.out.start(self.service.tables)
        self._there = await partitions_there(self._transport, self.service, self.names)
        wanted = topology(self.service, self.names, self._there, keeps=True)
        await (self._transport.declare(wanted) if self._settings.declares_at_start else self._transport.verify(wanted))
        await self._look_for_foreign_queues()
        self._caller.state = await self._state.enter_async_context(self.service.lifespan())
        for endpoint in self._endpoints:
            if endpoint.handler.ordered:
                async with self.out.database.transaction() as connection:
                    await watermark.subscribe(connection, endpoint.identity)
                    await watermark.take(connection, endpoint.identity, endpoint.types)
        await self._start_consumers()
        for component in self._working:
            await component.start()
        await self._announcer.start()
        if self.service.has_database and await self.out.unrouted.has_any():
            await self._announcer.ask()
        logger.info("%s is ready: %d handlers", self.service.name, len(self._endpoints))

    async def stop(self) -> None:
        self._is_draining = True
        await stop_all([self._announcer])
        await self._pausing.stop()  # or it would start a consumer that is being drained
        await self._former.stop()
        await asyncio.gather(*(self._drained(consumer) for consumer in self._every_consumer))
        await self._asker.stop()
        await self.out.answers.stop()
        await stop_all([*([self.out] if self.service.has_database else []), *self._working])
        await self._state.aclose()

    async def _look_for_foreign_queues(self) -> None:
        """Refuse to start without them. On the embedded broker, where nobody else could, they are made."""
        for endpoint in self._endpoints:
            if endpoint.handler.foreign is None:
                continue
            queue = Topology(queues=(endpoint.queue(self.names),))
            try:
                await self._transport.verify(queue)
            except TopologyMissing as missing:
                if not self._settings.is_embedded:
                    raise ForeignQueueMissing(f"{endpoint.identity} reads a foreign queue: {missing.args[0]}") from missing
                await self._transport.declare(queue)

    @property
    def _every_consumer(self) -> list[Consumer | Partitions]:
        return [*self._consumers, *self._former.consumers]

    async def _is_drained(self, identity: str) -> bool:
        """Whether nothing waits in any queue of this handler, also those that it had."""
        endpoint = next(each for each in self._endpoints if each.identity == identity)
        queues = endpoint.queues(self.names, self._there.get(identity, 1), keeps=True) + endpoint.former_queues(self.names)
        return not any([await self._transport.depth(queue.name) for queue in queues])

    async def _start_consumers(self) -> None:
        handling = {endpoint.identity: self._consumers_of(endpoint) for endpoint in self._endpoints}
        self._consumers = [*(consumer for consumers in handling.values() for consumer in consumers), *self._other_consumers()]
        if self.service.has_database:
            self._pausing.follow(handling)
            await self._pausing.read()
        waiting = [consumer for identity in self.paused for consumer in handling.get(identity, ())]
        for consumer in self._consumers:
            await (consumer.pause() if consumer in waiting else consumer.start())
        await self._former.start()

    async def _drained(self, consumer: Consumer | Partitions) -> None:
        try:
            await consumer.stop(self._settings.drain_s)
        except Exception:
            logger.exception("the consumer of %s did not stop cleanly", consumer.queue.name)

    def _other_consumers(self) -> list[Consumer | Partitions]:
        asked = partial(self._queries.process if self.service.has_database else self._direct.process, None)
        operations = operations_queue(self.service.name, self.names)
        consumers: list[Consumer | Partitions] = [Consumer(self._transport, operations, one_by_one(asked), prefetch=64, concurrency=8)]
        if self._caller.orchestrator is not None:
            queue = replies_queue(self.service.name, self.names)
            process = partial(self._caller.orchestrator.process, self.pipeline.reliably)
            prefetch = self._settings.prefetch
            consumers.append(Consumer(self._transport, queue, one_by_one(process), prefetch=prefetch, concurrency=self._room))
        return consumers

    def _consumers_of(self, endpoint: Endpoint) -> Sequence[Consumer | Partitions]:
        """One for each queue, or for all partitions where other instances may want their share."""
        there = self._there.get(endpoint.identity, 1)
        if there == 1 or self._settings.is_embedded:
            return [self._consumer_of(endpoint, queue, there) for queue in endpoint.queues(self.names, there, keeps=True)]
        return [Partitions(
            self.out.apart, endpoint.identity, endpoint.queue(self.names), there, partial(self._consumer_of, endpoint, of=there),
            holder=self.out.owner.id, term_s=self._settings.process_term_s, drain_s=self._settings.drain_s, clock=self._clock,
        )]  # fmt: skip

    def _consumer_of(self, endpoint: Endpoint, queue: Queue, of: int = 1) -> Consumer:
        """The consumer of one of the `of` queues that share the handler's prefetch."""
        handler, prefetch = endpoint.handler, max(self._settings.prefetch // of, min(PARTITION_PREFETCH, self._settings.prefetch))
        order: dict[str, Any] = {"key_of": _key_of} if handler.ordered else {"clock": self._clock}
        if handler.batch > 1:  # one batch at a time unless asked for: handlers that lock rows would wait for each other
            batches = Batches(self.pipeline, endpoint)
            prefetch, concurrency = max(prefetch, BATCHES_AHEAD * handler.batch), handler.concurrency or 1
            return Consumer(
                self._transport, queue, batches.process, prefetch=prefetch, concurrency=concurrency, batch=handler.batch, **order
            )
        process = one_by_one(partial(self._process_of(endpoint), endpoint))
        concurrency = min(handler.concurrency or prefetch, self._room)
        if handler.is_saga:  # a rush begins no more than its answers let end: they would time out behind the beginnings
            concurrency = max(concurrency // ANSWERS_PER_START, 1)
        return Consumer(self._transport, queue, process, prefetch=max(prefetch, concurrency), concurrency=concurrency, **order)

    def _process_of(self, endpoint: Endpoint) -> Callable[[Endpoint, Delivery], Awaitable[None]]:
        if not self.service.has_database:
            return self._direct.process
        return self._queries.process if endpoint.handler.message.kind == "query" else self.pipeline.process

    @property
    def _room(self) -> int:
        """How many messages of one handler may be handled at once: without a transaction each, no more than fit the prefetch."""
        return self._settings.database_pool_size if self.service.has_database else self._settings.prefetch


def _key_of(delivery: Delivery) -> object:
    key = delivery.properties.headers.get("key")
    return key if isinstance(key, str) else None  # anything else is malformed, and parked by whoever reads it


def _version() -> str:
    try:
        return version("eventplat")
    except PackageNotFoundError:
        return "0"
