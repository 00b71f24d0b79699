"""kombu's virtual transport, made into a broker: what is ours and what is kombu's.

kombu     exchanges, bindings and their tables (`BrokerState`), routing by exchange type, connections and channels,
          and the unacked messages of each channel with its prefetch (`QoS`). One channel is one subscription.
Ours      kombu drains by polling; here a put schedules a turn of the loop (`broker.embedded_turn`), and the turn
          hands out. kombu's `#` means one word or more; AMQP's means zero or more. kombu restores by routing
          again, into every matching queue; here a copy goes back to its own queue. kombu puts one dict into all
          queues; here each has a copy. kombu leaves a deleted queue in its exchanges' tables; here it goes.

Source: AMQP 0-9-1, 3.1.3.3 (topic matching); celery#4091 (a requeue that multiplies).

Next: broker.embedded_queue
"""

# mypy: disallow-untyped-calls=False
# (kombu's functions carry no types; other files call only what has them here)

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from itertools import count
from typing import Protocol

from kombu.connection import Connection
from kombu.transport import virtual
from kombu.transport.virtual.exchange import STANDARD_EXCHANGE_TYPES, TopicExchange

from eventplat.broker.embedded_delivery import EmbeddedDelivery
from eventplat.broker.embedded_queue import Copy, Message, QueueState
from eventplat.broker.topology import Binding, Exchange
from eventplat.broker.transport import Receive

logger = logging.getLogger(__name__)

ROUTES_MAX = 10_000  # remembered (exchange, routing key) pairs; a forgotten one is looked up again


class Held:
    """What a broker holds: kombu's exchanges and bindings, the queues, remembered routes, the next id."""

    def __init__(self) -> None:
        self.state = virtual.BrokerState()
        self.queues: dict[str, QueueState] = {}
        self.routes: dict[tuple[str, str], list[str]] = {}
        self.ids = count(1)


class Desk(Protocol):
    """The broker, as its channels see it."""

    state: virtual.BrokerState
    queues: dict[str, QueueState]
    routes: dict[tuple[str, str], list[str]]

    def forget(self, copy: Copy) -> None:
        """It is settled."""
        ...

    def give_back(self, copy: Copy) -> None:
        """It is ready again, at the head of its queue."""
        ...

    def dead_letter(self, copy: Copy) -> None:
        """It goes to its queue's dead letter binding."""
        ...

    def look_at(self, queue: QueueState) -> None:
        """Something may be handed out."""
        ...


class Publication:
    """One message on its way through the exchanges: `add` is called for each queue that matches."""

    __slots__ = ("add", "copies", "message", "replaces")

    def __init__(self, message: Message, add: Callable[[Publication, QueueState], None], replaces: Copy | None = None) -> None:
        self.message, self.add, self.replaces = message, add, replaces
        self.copies: list[Copy] = []


class AmqpTopicExchange(TopicExchange):
    """`*` is one word, `#` zero words or more. Matched against "." and the key, so that every word has its dot."""

    wildcards = {"*": r"\.[^.]*", "#": r"(?:\.[^.]*)*"}  # noqa: RUF012 - kombu's attribute

    def key_to_pattern(self, rkey: str) -> str:
        words = rkey.split(".") if rkey else []
        return "".join(self.wildcards.get(word) or r"\." + re.escape(word) for word in words) + r"\Z"

    def _match(self, pattern: str, string: str) -> re.Match[str] | None:
        found: re.Match[str] | None = super()._match(pattern, "." + string if string else "")
        return found


class Unacked(virtual.QoS):
    """kombu's unacked messages of a channel; what is restored keeps its order."""

    def holds(self, tag: int) -> bool:
        return tag in self._delivered and tag not in self._dirty

    def __len__(self) -> int:
        return len(self._delivered) - len(self._dirty)

    def __bool__(self) -> bool:
        return True  # kombu asks so whether there is one

    def restore_unacked_once(self, stderr: object = None) -> None:
        self._on_collect.cancel()
        self._flush()
        unacked, restore = list(self._delivered.values()), self.channel.give_back
        self._delivered.clear()
        for delivery in unacked:
            restore(delivery)


class EmbeddedChannel(virtual.Channel):
    """A channel of the embedded broker, with at most one consumer."""

    QoS = Unacked
    supports_fanout = True
    exchange_types = {**STANDARD_EXCHANGE_TYPES, "topic": AmqpTopicExchange}  # noqa: RUF012 - kombu's attribute

    def __init__(self, connection: EmbeddedVirtualTransport, **options: object) -> None:
        super().__init__(connection, **options)
        self.desk: Desk = connection.desk
        self.next_tag = count(1).__next__
        self._queue: QueueState | None = None
        self._receive: Receive | None = None
        self.no_ack = False

    # --- what the broker calls, typed ---------------------------------------------------------------------------

    def declare_exchange(self, exchange: Exchange) -> None:
        self.exchange_declare(exchange=exchange.name, type=exchange.type, durable=True)

    def declare_queue(self, state: QueueState) -> None:
        """Create the queue unless it is there, and bind it."""
        declared = state.declared
        self.queue_declare(queue=declared.name, durable=not state.is_exclusive, exclusive=state.is_exclusive, state=state)
        for binding in declared.bindings:
            self.queue_bind(queue=declared.name, exchange=binding.exchange, routing_key=binding.routing_key)

    def unbind(self, queue: str, binding: Binding) -> None:
        """Take a binding away, where it is there."""
        self.queue_unbind(queue=queue, exchange=binding.exchange, routing_key=binding.routing_key)
        self.desk.routes.clear()

    def publish(self, publication: Publication) -> Publication:
        """Route it: a copy for each queue that matches."""
        message = publication.message
        self.basic_publish(publication, message.exchange, message.routing_key)
        return publication

    def consume(self, queue: QueueState, receive: Receive, *, prefetch: int, tag: str) -> None:
        self.basic_qos(prefetch_count=prefetch)
        self.basic_consume(queue.name, queue.is_exclusive, receive, tag)

    # --- queues: kombu's hooks ---------------------------------------------------------------------------------

    def _has_queue(self, queue: str, **_: object) -> bool:
        return queue in self.desk.queues

    def _new_queue(self, queue: str, *, state: QueueState | None = None, **_: object) -> None:
        if state is not None:
            self.desk.queues.setdefault(queue, state)

    def _size(self, queue: str) -> int:
        state = self.desk.queues.get(queue)
        return 0 if state is None else len(state)

    def _queue_bind(self, *_: object) -> None:
        self.desk.routes.clear()

    def _delete(self, queue: str, exchange: str, *meta: object, **_: object) -> None:
        table = self.get_table(exchange)
        table[:] = [entry for entry in table if entry != meta]

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **options: object) -> None:
        super().queue_delete(queue, if_unused, if_empty, **options)
        self.desk.queues.pop(queue, None)
        self.desk.routes.clear()

    # --- routing -----------------------------------------------------------------------------------------------

    def _inplace_augment_message(self, message: Publication, exchange: str, routing_key: str) -> None:
        """Nothing: a `Publication` needs no encoding, and its tag is given at each hand-out."""

    def _lookup(self, exchange: str, routing_key: str, default: str | None = None) -> list[str]:
        routes = self.desk.routes
        found = routes.get((exchange, routing_key))
        if found is None:
            found = sorted(super()._lookup(exchange, routing_key, default))  # a set: no order of its own
            if len(routes) >= ROUTES_MAX:
                routes.clear()
            routes[exchange, routing_key] = found
        return found

    def _put(self, queue: str, message: Publication, **_: object) -> None:
        state = self.desk.queues.get(queue)
        if state is not None:
            message.add(message, state)

    def _put_fanout(self, exchange: str, message: Publication, routing_key: str, **options: object) -> None:
        for queue in self._lookup(exchange, routing_key):
            self._put(queue, message, **options)

    # --- consuming: called by the turn -------------------------------------------------------------------------

    def basic_consume(self, queue: str, no_ack: bool, callback: Receive, consumer_tag: str, **_: object) -> None:
        """Take part in `queue` from the next turn on. kombu would keep one callback per queue and connection."""
        self._queue, self._receive, self.no_ack = self.desk.queues[queue], callback, no_ack
        self._consumers.add(consumer_tag)
        self._queue.consumers.append(self)
        self.desk.look_at(self._queue)

    def basic_cancel(self, consumer_tag: str) -> None:
        """No new deliveries; the unacked ones stay until they are settled."""
        if consumer_tag in self._consumers and self._queue is not None:
            self._consumers.remove(consumer_tag)
            self._queue.consumers.remove(self)
            self.desk.look_at(self._queue)  # the next single active consumer
            self._close_if_idle()

    def has_room(self) -> bool:
        return self.no_ack or bool(self.qos.can_consume())

    def accept(self, copy: Copy) -> EmbeddedDelivery:
        """`copy` is this consumer's; it has not seen it."""
        delivery = EmbeddedDelivery(copy, self)
        if not self.no_ack:
            self.qos.append(delivery, delivery.delivery_tag)
        return delivery

    def release(self, delivery: EmbeddedDelivery) -> None:
        """It was not handed out after all."""
        if not self.no_ack:
            self.qos.ack(delivery.delivery_tag)

    def hand_out(self, delivery: EmbeddedDelivery) -> None:
        """Let the consumer see `delivery`, unless it has left since it was accepted."""
        if self.closed or self._receive is None:
            return
        if not self._consumers:
            delivery.requeue()
            return
        try:
            self._receive(delivery)
        except Exception:  # a bug of the caller must not take its neighbours' messages with it
            logger.exception("a delivery of %s was not received; it comes again", delivery.queue)
            delivery.requeue()

    # --- settling ----------------------------------------------------------------------------------------------

    def has(self, tag: int) -> bool:
        """Whether the delivery `tag` can still be settled here."""
        return not self.closed and not self.no_ack and bool(self.qos.holds(tag))

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None:
        self.desk.forget(self._settle(delivery_tag))

    def basic_reject(self, delivery_tag: int, requeue: bool = False) -> None:
        copy = self._settle(delivery_tag)
        (self.desk.give_back if requeue else self.desk.dead_letter)(copy)

    def give_back(self, delivery: EmbeddedDelivery) -> None:
        """kombu's restore, to its own queue only."""
        self.desk.give_back(delivery.copy)

    def _settle(self, tag: int) -> Copy:
        copy: Copy = self.qos.get(tag).copy
        self.qos.ack(tag)
        self._close_if_idle()
        if not self.closed:
            self.desk.look_at(copy.queue)  # room for one more
        return copy

    def _close_if_idle(self) -> None:
        if not self._consumers and not len(self.qos):
            self.close()


class EmbeddedVirtualTransport(virtual.Transport):
    """One connection to the broker that its `transport_options` hold."""

    Channel = EmbeddedChannel
    driver_type = driver_name = "embedded"

    def __init__(self, client: Connection, **options: object) -> None:
        super().__init__(client, **options)
        self.desk: Desk = (client.transport_options or {})["desk"]
        self.state = self.desk.state


class EmbeddedConnection:
    """A connection of its own: closing it gives back what its channels have not settled."""

    def __init__(self, desk: Desk) -> None:
        self._kombu = Connection(transport=EmbeddedVirtualTransport, transport_options={"desk": desk})

    def channel(self) -> EmbeddedChannel:
        channel: EmbeddedChannel = self._kombu.channel()
        return channel

    def close(self) -> None:
        self._kombu.release()
