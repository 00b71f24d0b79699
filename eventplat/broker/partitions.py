"""Partitions: one handler's queue as several, each with its share of the 64 lanes. Pure.

    partition 0    `<handler>`, the queue that a handler with one partition has, so that it has none to leave behind
    partition NN   `<handler>.pNN`
    lane           to partition lane % count; a message without a key to partition 0

What the queues are bound to is all that differs between two counts: a queue has the same name and arguments in each. So
a release with another count moves lanes (`Queue.unbound`), and what waits in a queue stays in it until it is consumed
there. With twice as many partitions half of each one's lanes stay. A key's next event may come by another queue before
the last one has come by the old: the handler's watermark holds it, and while a lane has two ways its inbox drops the copies.

More      every queue is bound by its new lanes before any lane leaves its old queue.
Fewer     the queues above the count lose their lanes and are consumed like the others, until an operator deletes them.

Next: service.partitions
"""

from __future__ import annotations

from dataclasses import replace

from eventplat.broker.topology import Binding, Queue
from eventplat.hashing import LANES

PARTITIONS_MAX = LANES
EVERY_LANE, NO_KEY = "*", "-"
_LANES = (*(str(lane) for lane in range(LANES)), NO_KEY)


def partition_name(queue: str, number: int) -> str:
    """The name of partition `number` of the handler whose queue is `queue`."""
    return queue if number == 0 else f"{queue}.p{number:02}"


def lanes_of(number: int, count: int) -> tuple[str, ...]:
    """The last words of the routing keys that partition `number` of `count` takes; none above the count."""
    if number >= count:
        return ()
    return tuple(lane for lane in _LANES if (0 if lane == NO_KEY else int(lane) % count) == number)


def partitions(whole: Queue, count: int, there: int = 1) -> tuple[Queue, ...]:
    """The queues of a handler with `count` partitions.

    Args:
        whole: Its queue as that of one partition, whose routing keys end with every lane.
        there: How many of its partition queues are there already; those above `count` lose their bindings.
    """
    if count == there == 1:
        return (whole,)
    return tuple(_partition(whole, number, count) for number in range(max(count, there)))


def _partition(whole: Queue, number: int, count: int) -> Queue:
    lanes = lanes_of(number, count) if count > 1 else (EVERY_LANE,) if number == 0 else ()
    others = tuple(lane for lane in (EVERY_LANE, *_LANES) if lane not in lanes)
    return replace(whole, name=partition_name(whole.name, number), bindings=_by(whole, lanes), unbound=_by(whole, others))


def _by(whole: Queue, lanes: tuple[str, ...]) -> tuple[Binding, ...]:
    stems = [(binding.exchange, binding.routing_key.rpartition(".")[0]) for binding in whole.bindings]
    return tuple(Binding(exchange, f"{stem}.{lane}") for exchange, stem in stems for lane in lanes)
