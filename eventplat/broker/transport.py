"""The transport contract: what a broker does for eventplat, in words that both brokers keep.

Two implementations: `broker.rabbitmq` (pika) and `broker.embedded` (kombu's virtual transport with a
journal). tests/conformance runs one suite on both; a difference that is not named below fails CI.

Publishing   persistent, confirmed; a mandatory message that reaches no queue comes back as `Returned`.
             `Confirmed` means: every queue copy is on disk. Order of one publisher to one queue is kept.
             What AMQP cannot carry is `Nacked` alone (`broker.refusal`); headers named `x-...` are a broker's own and not sent.
Consuming    prefetch bounds the unsettled deliveries of one consumer. Every delivery is settled once: `ack`, `requeue`
             (back to its own queue, counted), `give_back` (the same, uncounted where the broker can) or `dead_letter`
             (to the queue's dead letter binding). Settling a delivery of a connection that is gone does nothing: it
             will come again.
             What comes again goes before what was never handed out; in which order among itself is not promised.
Exclusive    a queue of one consumer of one transport: another consumer, and another transport that asks for its depth, is refused.
Connection   the transport supervises itself: lost connections, cancelled consumers and deleted channels
             come back the same way, with backoff; exclusive queues are declared anew under the same name.
Threads      none: everything happens on the loop that opened the transport; `receive` is called on it.

| where they differ | RabbitMQ | embedded |
|---|---|---|
| a message beside one that the broker refused (`Nacked`) | may arrive twice | once |
| `user_id` of another user | `Nacked` | kept: there are no users |
| `delivery_count` in a classic queue | 0 or 1 | exact |
| `give_back` of a quorum queue's message | counted before 4.3 | not counted |
| a publish that `close` overtakes | `BrokerUnavailable` | confirmed first |
| after a `declare` that failed | what came before the fault is there | nothing is there |
| an exclusive queue that somebody has | refused after the connect timeout | at once |

Next: broker.rabbitmq, broker.embedded
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from eventplat.broker.topology import Queue, Topology
from eventplat.messages.codec import Properties


@dataclass(slots=True)
class Outgoing:
    """One message on its way out: where to, and its exact bytes."""

    exchange: str                  # with the prefix
    routing_key: str
    properties: Properties
    body: bytes
    mandatory: bool = True
    persistent: bool = True


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The broker has it, on disk, in every queue it was routed to."""


@dataclass(frozen=True, slots=True)
class Returned:
    """No queue is bound for it: it was not kept."""

    reason: str                    # "NO_ROUTE"


@dataclass(frozen=True, slots=True)
class Nacked:
    """The broker refused it (a full queue, a lost majority, no such exchange), or AMQP cannot carry it: not kept by every queue."""

    reason: str


Outcome: TypeAlias = Confirmed | Returned | Nacked


class Delivery(Protocol):
    """One message handed to this process, to be settled exactly once; settling twice does nothing."""

    @property
    def properties(self) -> Properties: ...
    @property
    def body(self) -> bytes: ...
    @property
    def queue(self) -> str: ...
    @property
    def exchange(self) -> str: ...
    @property
    def routing_key(self) -> str: ...
    @property
    def redelivered(self) -> bool: ...
    @property
    def delivery_count(self) -> int:
        """How often it was handed out before and not acked; 0 at first."""
        ...

    def ack(self) -> None:
        """It is done: the broker forgets it."""
        ...

    def requeue(self) -> None:
        """Not now: back to its own queue, counted as a delivery."""
        ...

    def give_back(self) -> None:
        """It was not begun: back to its own queue, not counted as a delivery where the broker can tell the two apart."""
        ...

    def dead_letter(self) -> None:
        """Never: to the queue's dead letter binding, or dropped where there is none."""
        ...


PREFETCH_MAX = 65_535


def check_prefetch(prefetch: int) -> None:
    """Refuse one that would bound nothing, as 0 does on the wire."""
    if not 1 <= prefetch <= PREFETCH_MAX:
        raise ValueError(f"prefetch is 1..{PREFETCH_MAX}, not {prefetch}")


Receive: TypeAlias = Callable[[Delivery], None]
"""Called on the loop for each delivery; must not block and must not raise."""

TransportState = Literal["connected", "blocked", "disconnected"]


class Subscription(Protocol):
    """A running consumer."""

    @property
    def is_active(self) -> bool:
        """Whether the broker counts this consumer right now."""
        ...

    async def cancel(self) -> None:
        """Take no new deliveries; what was delivered can still be settled."""
        ...


class Transport(Protocol):
    """One process's link to the broker."""

    @property
    def state(self) -> TransportState:
        """`blocked`: the broker takes no publishes for now (memory or disk alarm), consuming goes on."""
        ...

    async def open(self) -> None:
        """Connect. A transport that was closed may be opened again; its consumers do not come back.

        Raises:
            BrokerUnavailable: Not reached within the connect timeout, with the last reason.
        """
        ...

    async def close(self) -> None:
        """Flush what was settled, then disconnect. Unsettled deliveries come again elsewhere."""
        ...

    async def declare(self, topology: Topology) -> None:
        """Create what is missing; idempotent. Bindings are added to those that are there; exclusive queues are left out.

        What a queue names as `unbound` is taken away last, once every queue of the topology has all its bindings: a
        message that is published meanwhile goes to the old queue, the new one or both, and never to neither. A
        binding that is not there is none to take away.

        Raises:
            TopologyMismatch: A queue or exchange exists with other arguments.
            TopologyMissing: A binding names an exchange that is not there.
        """
        ...

    async def verify(self, topology: Topology) -> None:
        """Check that everything is there, create nothing.

        Raises:
            TopologyMissing: With the first name that is not there.
        """
        ...

    async def publish(self, batch: Sequence[Outgoing], *, timeout_s: float = 10.0) -> list[Outcome]:
        """Publish `batch` and return once the broker has settled each message.

        Many calls may run at once; their writes are gathered.

        Args:
            batch: Any number; at most the confirm window is outstanding at a time.
            timeout_s: Seconds for the whole batch.

        Returns:
            One outcome per message, in the same order.

        Raises:
            BrokerUnavailable: Not settled in `timeout_s`, or the connection was lost: some may have arrived. Its
                `outcomes`, where there are any, tell what is known of each message.
        """
        ...

    async def consume(self, queue: Queue, receive: Receive, *, prefetch: int) -> Subscription:
        """Hand every message of `queue` to `receive` until cancelled, over reconnects.

        An exclusive queue is declared and bound here, each time anew, and needs no acks.

        Args:
            queue: An existing durable queue, or an exclusive one.
            prefetch: Unsettled deliveries at a time, 1..65_535.

        Raises:
            TopologyMissing: A durable queue, or an exchange that an exclusive one is bound to, is not there.
            BrokerUnavailable: The queue is exclusive to another consumer, or durable where an exclusive one is asked for.
            ValueError: The prefetch bounds nothing.
        """
        ...

    async def depth(self, queue: str) -> int | None:
        """Messages ready in `queue` (not those delivered and unsettled); None where there is no such queue.

        Raises:
            BrokerError: It is exclusive to another transport.
        """
        ...

    async def purge(self, queue: str) -> None:
        """Drop every ready message of `queue`: tests and operators only.

        Raises:
            TopologyMissing: There is no such queue.
            BrokerError: It is exclusive to another transport.
        """
        ...
