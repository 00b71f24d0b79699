"""Declaring on the embedded broker: as RabbitMQ would, with the whole of it journaled before any of it counts.

Next: broker.embedded_kombu
"""

from __future__ import annotations

from eventplat.broker.embedded_journal import Journal
from eventplat.broker.embedded_kombu import EmbeddedChannel
from eventplat.broker.embedded_queue import QueueState
from eventplat.broker.topology import Exchange, Queue, Topology
from eventplat.errors import BrokerUnavailable, TopologyMismatch, TopologyMissing


def declare(channel: EmbeddedChannel, topology: Topology, journal: Journal | None) -> None:
    """Create what is missing. Exclusive queues are their consumers' own.

    Raises:
        TopologyMismatch: It is there with other arguments.
        TopologyMissing: A binding names an exchange that is not there.
        BrokerUnavailable: It could not be journaled. As after the others, nothing was created.
    """
    queues = [queue for queue in topology.queues if queue.type != "exclusive"]
    new_exchanges = [exchange for exchange in topology.exchanges if _is_new_exchange(channel, exchange)]
    new_queues = [queue for queue in queues if _is_new_queue(channel, queue)]
    coming = {exchange.name for exchange in new_exchanges}
    for queue in queues:
        _check_bindings(channel, queue, coming)
    changed = [queue for queue in queues if _lacks_a_binding(channel, queue) or _has_one_too_many(channel, queue)]
    if journal is not None and (new_exchanges or new_queues or changed):
        journal.declare(new_exchanges, dict.fromkeys([*new_queues, *changed]))
    apply(channel, new_exchanges, queues, is_journaled=journal is not None)


def apply(channel: EmbeddedChannel, exchanges: list[Exchange], queues: list[Queue], *, is_journaled: bool) -> None:
    """Create it in memory, unchecked."""
    for exchange in exchanges:
        channel.declare_exchange(exchange)
    for queue in queues:
        channel.declare_queue(QueueState(queue, is_journaled=is_journaled))
    for queue in queues:
        for binding in queue.unbound:
            channel.unbind(queue.name, binding)


def declare_exclusive(channel: EmbeddedChannel, queue: Queue) -> None:
    """Create the exclusive `queue`, which must not be there.

    Raises:
        BrokerUnavailable: Somebody has it. RabbitMQ's 405: the owner may be about to go.
        TopologyMissing: A binding names an exchange that is not there.
    """
    if queue.name in channel.desk.queues:
        raise BrokerUnavailable(f"the exclusive queue {queue.name!r} belongs to another consumer")
    _check_bindings(channel, queue, set())
    channel.declare_queue(QueueState(queue))


def verify(channel: EmbeddedChannel, topology: Topology) -> None:
    """Ask for everything, create nothing.

    Raises:
        TopologyMissing: With the first name that is not there.
    """
    for exchange in topology.exchanges:
        if exchange.name not in channel.state.exchanges:
            raise TopologyMissing(f"exchange {exchange.name!r} is not there")
    for queue in topology.queues:
        if queue.type != "exclusive":
            existing(channel, queue.name)


def existing(channel: EmbeddedChannel, name: str) -> QueueState:
    """The queue `name`.

    Raises:
        TopologyMissing: It is not there.
    """
    state = channel.desk.queues.get(name)
    if state is None:
        raise TopologyMissing(f"queue {name!r} is not there")
    return state


def _is_new_exchange(channel: EmbeddedChannel, exchange: Exchange) -> bool:
    known = channel.state.exchanges.get(exchange.name)
    if known is not None and known["type"] != exchange.type:
        raise TopologyMismatch(f"exchange {exchange.name!r} is {known['type']}, not {exchange.type}")
    return known is None


def _is_new_queue(channel: EmbeddedChannel, queue: Queue) -> bool:
    known = channel.desk.queues.get(queue.name)
    if known is None:
        return True
    there, wanted = known.declared, queue
    if (there.type, there.arguments) != (wanted.type, wanted.arguments):
        raise TopologyMismatch(
            f"queue {queue.name!r} is {there.type} with {there.arguments}, not {wanted.type} with {wanted.arguments}"
        )
    return False


def _check_bindings(channel: EmbeddedChannel, queue: Queue, coming: set[str]) -> None:
    for binding in queue.bindings:
        if binding.exchange not in channel.state.exchanges and binding.exchange not in coming:
            raise TopologyMissing(f"exchange {binding.exchange!r}, which queue {queue.name!r} is to be bound to, is not there")


def _lacks_a_binding(channel: EmbeddedChannel, queue: Queue) -> bool:
    has = channel.state.has_binding
    return not all(has(queue.name, binding.exchange, binding.routing_key) for binding in queue.bindings)


def _has_one_too_many(channel: EmbeddedChannel, queue: Queue) -> bool:
    has = channel.state.has_binding
    return any(has(queue.name, binding.exchange, binding.routing_key) for binding in queue.unbound)
