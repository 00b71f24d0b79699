"""Embedded: the transport contract inside one process, for the mode that needs nothing installed.

Everybody in the process who opens the same path works on one broker: each service, the gateway, a script. kombu's
virtual transport routes and keeps the books; a turn per loop turn commits to the journal and hands out; there is
no thread and no polling. Only the files `broker/embedded*.py` know kombu.

    open, close → embedded_broker       who shares what, and for how long
    declare     → embedded_topology
    publish     → embedded_turn         group commit, confirms, hand-outs, a full disk
    consume     → embedded_kombu        channels, prefetch, settling
    order       → embedded_queue
    disk        → embedded_journal

Confirmed    every persistent copy for a durable queue is synced to disk; transient messages and exclusive queues are
             memory. After a kill -9 everything that was confirmed and not acked is there again, in order.
Acked        an ack is on disk before the next confirm of anybody, and at the latest with the next turn; a kill between
             the two brings the message again.
Counted      each hand-out, before the consumer sees it: over kills too, so that a poison message is found out.
Blocking     the loop waits for each sync of the disk.

Next: broker.embedded_broker
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from eventplat.broker import embedded_topology
from eventplat.broker.embedded_broker import EmbeddedBroker, shared
from eventplat.broker.embedded_kombu import EmbeddedChannel, EmbeddedConnection
from eventplat.broker.embedded_queue import QueueState
from eventplat.broker.embedded_turn import Turns
from eventplat.broker.outcomes import count_outcomes
from eventplat.broker.topology import Queue, Topology
from eventplat.broker.transport import Outcome, Outgoing, Receive, TransportState, check_prefetch
from eventplat.clock import Clock
from eventplat.errors import BrokerError, BrokerUnavailable

WINDOW = 1_000  # messages of one batch per turn: bounds how long a turn keeps the loop


class EmbeddedSubscription:
    """A consumer of one queue: a channel of its own."""

    def __init__(self, channel: EmbeddedChannel, queue: Queue, tag: str) -> None:
        self._channel, self._queue, self._tag, self._is_active = channel, queue, tag, True

    @property
    def is_active(self) -> bool:
        return self._is_active

    @property
    def queue_name(self) -> str:
        return self._queue.name

    async def cancel(self) -> None:
        self.detach()

    def detach(self) -> None:
        """Leave the queue; an exclusive one goes too."""
        if self._is_active:
            self._is_active = False
            if self._queue.type == "exclusive":
                self._channel.queue_delete(self._queue.name)
            self._channel.basic_cancel(self._tag)


class EmbeddedTransport:
    """One party's link to the broker of this process.

    Args:
        path: Of the journal, shared by all transports of this process with the same one; or a broker to share;
            None: the process's broker in memory.
        name: Of the party, as consumers are named by.
        clock: For expiry; the broker takes that of the first to open it.
    """

    def __init__(self, path: Path | EmbeddedBroker | None, *, clock: Clock, name: str = "embedded") -> None:
        self._path, self._clock, self._name = path, clock, name
        self._broker: EmbeddedBroker | None = None
        self._connection: EmbeddedConnection | None = None
        self._subscriptions: list[EmbeddedSubscription] = []
        self._numbers = count(1)

    @property
    def state(self) -> TransportState:
        if self._broker is None:
            return "disconnected"
        return "blocked" if self._broker.turns.is_blocked else "connected"

    async def open(self) -> None:
        """Join the broker; the first to do so loads the journal.

        Raises:
            EmbeddedBrokerBusy: Another process has the journal open, or another loop of this one the broker.
            BrokerUnavailable: The journal cannot be opened or read.
        """
        if self._broker is not None:
            return
        broker = self._path if isinstance(self._path, EmbeddedBroker) else shared(self._path, clock=self._clock)
        broker.join(self)
        self._broker, self._connection = broker, EmbeddedConnection(broker.turns)

    async def close(self) -> None:
        broker, connection = self._broker, self._connection
        if broker is None or connection is None:
            return
        for subscription in self._subscriptions:
            subscription.detach()
        self._subscriptions.clear()
        broker.turns.run()     # what was settled, and everybody's publishes
        connection.close()     # gives back what was not
        self._broker = self._connection = None
        broker.leave(self)

    async def declare(self, topology: Topology) -> None:
        self._joined().declare(topology)

    async def verify(self, topology: Topology) -> None:
        embedded_topology.verify(self._turns().router, topology)

    async def publish(self, batch: Sequence[Outgoing], *, timeout_s: float = 10.0) -> list[Outcome]:
        self._turns()  # also of an empty batch: a closed transport says so
        outcomes: list[Outcome] = []
        try:
            async with asyncio.timeout(timeout_s):
                for start in range(0, len(batch), WINDOW):
                    some, settled = self._turns().publish(batch[start : start + WINDOW])
                    if settled is not None:
                        await settled
                    outcomes += some
        except TimeoutError:
            raise BrokerUnavailable(f"{len(batch)} messages were not settled within {timeout_s:g} s") from None
        count_outcomes(outcomes)
        return outcomes

    async def consume(self, queue: Queue, receive: Receive, *, prefetch: int) -> EmbeddedSubscription:
        check_prefetch(prefetch)
        turns, connection = self._turns(), self._connection
        if connection is None:
            raise BrokerUnavailable("the embedded broker is not open")
        if queue.type == "exclusive":
            embedded_topology.declare_exclusive(turns.router, queue)
        state = embedded_topology.existing(turns.router, queue.name)
        if state.is_exclusive != (queue.type == "exclusive"):
            raise BrokerUnavailable(f"queue {queue.name!r} is exclusive to another consumer")
        channel, tag = connection.channel(), f"{self._name}#{next(self._numbers)}"
        channel.consume(state, receive, prefetch=prefetch, tag=tag)
        subscription = EmbeddedSubscription(channel, queue, tag)
        self._subscriptions = [known for known in self._subscriptions if known.is_active] + [subscription]
        return subscription

    async def depth(self, queue: str) -> int | None:
        turns = self._turns()
        state = turns.queues.get(queue)
        if state is None:
            return None
        self._check_owner(state)
        turns.expire(state)
        return len(state)

    async def purge(self, queue: str) -> None:
        """Drop every ready message of `queue`.

        Raises:
            TopologyMissing: There is no such queue.
        """
        turns = self._turns()
        state = embedded_topology.existing(turns.router, queue)
        self._check_owner(state)
        for copy in state.take_all():
            turns.forget(copy)

    def _check_owner(self, state: QueueState) -> None:
        """As RabbitMQ, 405: an exclusive queue is nobody else's to look at."""
        if state.is_exclusive and not any(mine.is_active and mine.queue_name == state.name for mine in self._subscriptions):
            raise BrokerError(f"queue {state.name!r} is exclusive to another transport")

    def _joined(self) -> EmbeddedBroker:
        if self._broker is None:
            raise BrokerUnavailable("the embedded broker is not open")
        return self._broker

    def _turns(self) -> Turns:
        return self._joined().turns
