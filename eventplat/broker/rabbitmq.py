"""RabbitMQ: the transport contract over two pika connections.

One connection publishes, one consumes, declares and asks: when an alarm stops the publishing one, work that
has been delivered still gets done and acked. pika's `AsyncioConnection` runs on the process's own loop; only
the files `broker/rabbitmq*.py` know pika.

    publish  → rabbitmq_publisher → rabbitmq_confirms
    consume  → rabbitmq_consumer  → rabbitmq_attachment → rabbitmq_acks
    both     → rabbitmq_connection → rabbitmq_wire
    consumers the broker has lost    rabbitmq_watchdog

Works on RabbitMQ 3.10 to 4.x with every deprecated feature denied: prefetch per consumer, durable or exclusive
queues only.

Next: broker.rabbitmq_connection
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from eventplat.broker import rabbitmq_topology
from eventplat.broker.outcomes import count_outcomes
from eventplat.broker.rabbitmq_connection import HEARTBEAT_S, Backoff, Link
from eventplat.broker.rabbitmq_consumer import RabbitSubscription
from eventplat.broker.rabbitmq_publisher import WINDOW, Publisher
from eventplat.broker.rabbitmq_watchdog import Watchdog
from eventplat.broker.topology import Queue, Topology
from eventplat.broker.transport import Outcome, Outgoing, Receive, Subscription, TransportState, check_prefetch
from eventplat.clock import Clock

CONNECT_TIMEOUT_S = 10.0
_CHANCE = random.SystemRandom().random


class RabbitTransport:
    """One process's link to RabbitMQ.

    Args:
        url: `amqp://user:password@host:port/vhost`, or several, tried in turn; `amqps://` for TLS.
        name: Of the process, as the broker's operators see it.
        clock: For backoff.
        window: Messages that may wait for a confirm at a time.
        connect_timeout_s: Seconds `open` and `consume` may take, and all others may wait for a connection.
        heartbeat_s: Whole seconds; a dead connection is noticed within two of them.
        chance: 0..1, for the backoff's jitter.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        name: str,
        clock: Clock,
        window: int = WINDOW,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        heartbeat_s: int = HEARTBEAT_S,
        chance: Callable[[], float] = _CHANCE,
    ) -> None:
        urls = (url,) if isinstance(url, str) else tuple(url)
        self._clock, self._chance, self._connect_timeout_s = clock, chance, connect_timeout_s
        self._publishing = Link(urls, name=f"{name} publish", clock=clock, chance=chance, heartbeat_s=heartbeat_s)
        self._consuming = Link(urls, name=f"{name} consume", clock=clock, chance=chance, heartbeat_s=heartbeat_s)
        self._publisher = Publisher(self._publishing, window=window, backoff=self._backoff())
        self._subscriptions: list[RabbitSubscription] = []
        self._watchdog = Watchdog(self._consuming, lambda: tuple(self._subscriptions), clock)

    @property
    def state(self) -> TransportState:
        if "disconnected" in {self._publishing.state, self._consuming.state}:
            return "disconnected"
        return self._publishing.state

    async def open(self) -> None:
        links = [asyncio.create_task(link.open(self._connect_timeout_s)) for link in (self._publishing, self._consuming)]
        try:
            await asyncio.gather(*links)
        except BaseException:  # one is not enough
            await asyncio.wait(links)
            await self.close()
            raise
        self._publisher.start()
        await self._watchdog.start()

    async def close(self) -> None:
        await self._watchdog.stop()
        for subscription in self._subscriptions:
            await subscription.detach()
        self._subscriptions.clear()
        await self._publisher.close()
        await asyncio.gather(self._publishing.close(), self._consuming.close())

    async def declare(self, topology: Topology) -> None:
        await rabbitmq_topology.declare(self._consuming, topology, within_s=self._connect_timeout_s)

    async def verify(self, topology: Topology) -> None:
        await rabbitmq_topology.verify(self._consuming, topology, within_s=self._connect_timeout_s)

    async def publish(self, batch: Sequence[Outgoing], *, timeout_s: float = 10.0) -> list[Outcome]:
        outcomes = await self._publisher.publish(batch, timeout_s=timeout_s)
        count_outcomes(outcomes)
        return outcomes

    async def consume(self, queue: Queue, receive: Receive, *, prefetch: int) -> Subscription:
        check_prefetch(prefetch)
        subscription = RabbitSubscription(self._consuming, queue, receive, prefetch=prefetch, backoff=self._backoff())
        self._subscriptions = [known for known in self._subscriptions if not known.is_over] + [subscription]
        try:
            await subscription.start(self._connect_timeout_s)
        except BaseException:
            self._subscriptions.remove(subscription)
            raise
        return subscription

    async def depth(self, queue: str) -> int | None:
        return await rabbitmq_topology.depth(self._consuming, queue, within_s=self._connect_timeout_s)

    async def purge(self, queue: str) -> None:
        await rabbitmq_topology.purge(self._consuming, queue, within_s=self._connect_timeout_s)

    def _backoff(self) -> Backoff:
        return Backoff(self._clock, self._chance)
