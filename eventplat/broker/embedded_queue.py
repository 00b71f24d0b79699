"""One queue of the embedded broker: who is next, and for whom. Pure.

Order     by id, the order of arrival in the whole broker. What comes back goes before everything that was never
          handed out, in its old order: exactly where a reload from the journal would put it.
Consumer  competing consumers take turns, those with room in their prefetch; with a single active consumer the
          first that subscribed gets all, and the next takes over when it leaves.
Copies    each queue has a copy of its own: counted, expired and settled alone. The message behind the copies is
          a snapshot that no handler ever sees; every hand-out gets fresh properties.

Next: broker.embedded_turn
"""

from __future__ import annotations

import copy as deep
import heapq
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from eventplat.broker.topology import Queue
from eventplat.broker.transport import Outgoing
from eventplat.messages.codec import Properties


class Message:
    """What was published, as it was at that moment."""

    __slots__ = ("body", "encoded", "exchange", "is_persistent", "properties", "routing_key")

    def __init__(self, exchange: str, routing_key: str, properties: Properties, body: bytes, *, is_persistent: bool) -> None:
        self.exchange, self.routing_key, self.body, self.is_persistent = exchange, routing_key, body, is_persistent
        self.properties = properties
        self.encoded = ""                        # the properties as the journal keeps them, once they are

    @classmethod
    def of(cls, outgoing: Outgoing) -> Message:
        """A snapshot of `outgoing`: what its publisher does to it later is not seen here."""
        properties = fresh(outgoing.properties)
        for name in [name for name in properties.headers if name.startswith("x-")]:
            del properties.headers[name]  # a broker's own, as on RabbitMQ
        return cls(outgoing.exchange, outgoing.routing_key, properties, outgoing.body, is_persistent=outgoing.persistent)


class Copy:
    """One queue's copy of a message.

    Attributes:
        deliveries: How often it was handed out.
        expires_us: Wall clock in microseconds, or None.
        is_journaled: It belongs on disk; `is_on_disk` once it is there.
        is_void: Its commit failed: nobody may have it.
    """

    __slots__ = ("deliveries", "expires_us", "id", "is_journaled", "is_on_disk", "is_void", "message", "queue")

    def __init__(self, id: int, queue: QueueState, message: Message, *, expires_us: int | None = None) -> None:  # noqa: A002
        self.id, self.queue, self.message, self.expires_us = id, queue, message, expires_us
        self.deliveries = 0
        self.is_journaled = message.is_persistent and queue.is_journaled
        self.is_on_disk = self.is_void = False

    @property
    def is_spent(self) -> bool:
        """Handed out more often than its queue allows."""
        return self.queue.limit is not None and self.deliveries > self.queue.limit

    def has_expired(self, now_us: int) -> bool:
        return self.expires_us is not None and self.expires_us <= now_us


class Consumer(Protocol):
    """Who a copy can be handed to."""

    def has_room(self) -> bool:
        """Whether its prefetch allows one more."""
        ...


class QueueState:
    """The ready copies and the consumers of one declared queue; `is_journaled`: its persistent messages are."""

    def __init__(self, declared: Queue, *, is_journaled: bool = False) -> None:
        self.declared, self.name, self.is_journaled = declared, declared.name, is_journaled
        self.is_exclusive = declared.type == "exclusive"
        arguments = declared.arguments           # what RabbitMQ would be told, not what the value also says
        self.limit: int | None = arguments.get("x-delivery-limit")
        self.single_active: bool = arguments.get("x-single-active-consumer", False)
        self.dead_letter = declared.dead_letter if "x-dead-letter-exchange" in arguments else None
        self.consumers: deque[Any] = deque()
        self._fresh: deque[Copy] = deque()
        self._returned: list[tuple[int, Copy]] = []
        self.expiring = 0                        # ready copies that have an expiry: without any, nobody looks at the clock

    def __len__(self) -> int:
        return len(self._fresh) + len(self._returned)

    def put(self, copy: Copy) -> None:
        """At the end. Ids must grow."""
        self._fresh.append(copy)
        self.expiring += copy.expires_us is not None

    def give_back(self, copy: Copy) -> None:
        """To the head, at its old place among those that came back."""
        heapq.heappush(self._returned, (copy.id, copy))
        self.expiring += copy.expires_us is not None

    def head(self) -> Copy:
        """What `take` would return."""
        return self._returned[0][1] if self._returned else self._fresh[0]

    def take(self) -> Copy:
        """The next copy.

        Raises:
            IndexError: There is none.
        """
        copy = heapq.heappop(self._returned)[1] if self._returned else self._fresh.popleft()
        self.expiring -= copy.expires_us is not None
        return copy

    def pick(self) -> Any | None:
        """The consumer whose turn it is, or None: there is none with room."""
        consumers = self.consumers
        if self.single_active:
            return consumers[0] if consumers and consumers[0].has_room() else None
        for _ in range(len(consumers)):
            consumer = consumers[0]
            consumers.rotate(-1)
            if consumer.has_room():
                return consumer
        return None

    def take_expired(self, now_us: int) -> list[Copy]:
        """Remove and return what has expired."""
        return self._remove(lambda copy: copy.has_expired(now_us))

    def take_void(self) -> list[Copy]:
        """Remove and return the copies whose commit failed."""
        return self._remove(lambda copy: copy.is_void)

    def take_spent(self) -> list[Copy]:
        """Remove and return what was handed out too often."""
        return self._remove(lambda copy: copy.is_spent)

    def take_all(self) -> list[Copy]:
        """Remove and return every ready copy."""
        return self._remove(lambda _: True)

    def _remove(self, leaves: Callable[[Copy], bool]) -> list[Copy]:
        ready = [copy for _, copy in sorted(self._returned)] + list(self._fresh)
        gone = [copy for copy in ready if leaves(copy)]
        if gone:
            self._returned = [entry for entry in self._returned if not leaves(entry[1])]
            heapq.heapify(self._returned)
            self._fresh = deque(copy for copy in self._fresh if not leaves(copy))
            self.expiring -= sum(copy.expires_us is not None for copy in gone)
        return gone


def fresh(properties: Properties) -> Properties:
    """A copy that shares nothing that can be changed."""
    nested = (dict, list)
    headers = {name: deep.deepcopy(value) if isinstance(value, nested) else value for name, value in properties.headers.items()}
    return Properties(
        properties.message_id, properties.type, properties.correlation_id, properties.reply_to, properties.app_id,
        properties.user_id, properties.timestamp, properties.content_type, properties.expiration, headers,
    )
