"""Declaring, verifying, depth and purge on both transports."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from eventplat.broker.topology import Binding, Exchange, Names, Queue, Topology
from eventplat.broker.transport import Confirmed, Returned
from eventplat.errors import TopologyMismatch, TopologyMissing
from tests.conformance.brokers import Corner, Received, bodies, conformance, numbered, outgoing

KINDS = ("topic", "direct", "fanout")


@conformance
async def test_declaring_again_changes_nothing(corner: Corner) -> None:
    queue, write = await corner.direct()
    await corner.transport.publish(numbered(write, 3))

    for _ in range(3):
        await corner.transport.declare(corner.declared)

    assert await corner.left_in(queue) == bodies(3)


@conformance
async def test_two_transports_may_declare_the_same_at_once(corner: Corner) -> None:
    exchange = Exchange(corner.name("topic"), "topic")
    queue = Queue(corner.name("queue"), bindings=(Binding(exchange.name, "#"),))
    corner.declared |= (topology := Topology((exchange,), (queue,)))
    parties = [corner.transport, await corner.another(), await corner.another()]

    await asyncio.gather(*(transport.declare(topology) for transport in parties))

    assert await corner.publish(outgoing(exchange, "k", b"1")) == [Confirmed()]
    assert await corner.left_in(queue) == [b"1"]


@conformance
async def test_an_empty_topology_is_declared(corner: Corner) -> None:
    await corner.transport.declare(Topology())
    await corner.transport.verify(Topology())


@conformance
async def test_a_transports_queue_is_everybodys(corner: Corner) -> None:
    queue, write = await corner.direct()
    other = await corner.another()

    assert await other.publish([write(b"1")]) == [Confirmed()]
    assert await other.depth(queue.name) == 1
    await other.verify(corner.declared)


@conformance
async def test_declaring_with_more_bindings_adds_them(corner: Corner) -> None:
    exchange = await corner.exchange("direct")
    queue = await corner.queue(exchange, "a")

    await corner.declare(Topology((), (Queue(queue.name, bindings=(Binding(exchange.name, "b"),)),)))

    assert await corner.publish(outgoing(exchange, "a"), outgoing(exchange, "b")) == [Confirmed(), Confirmed()]


@conformance
async def test_declaring_with_fewer_bindings_takes_none_away(corner: Corner) -> None:
    exchange = await corner.exchange("direct")
    queue = await corner.queue(exchange, "a", "b")

    await corner.transport.declare(Topology((), (Queue(queue.name),)))

    assert await corner.publish(outgoing(exchange, "a"), outgoing(exchange, "b")) == [Confirmed(), Confirmed()]


@pytest.mark.parametrize("other", KINDS)
@pytest.mark.parametrize("kind", KINDS)
@conformance
async def test_an_exchange_keeps_its_type(corner: Corner, kind: Any, other: Any) -> None:
    exchange = await corner.exchange(kind)

    if kind == other:
        await corner.transport.declare(Topology((Exchange(exchange.name, other),)))
    else:
        with pytest.raises(TopologyMismatch, match=exchange.name):
            await corner.transport.declare(Topology((Exchange(exchange.name, other),)))


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "quorum to classic": ({}, {"type": "classic"}),
    "classic to quorum": ({"type": "classic"}, {}),
    "to single active": ({}, {"single_active": True}),
    "from single active": ({"single_active": True}, {}),
    "to a dead letter": ({}, {"dead_letter": Binding("dead", "k")}),
    "from a dead letter": ({"dead_letter": Binding("dead", "k")}, {}),
    "another dead letter key": ({"dead_letter": Binding("dead", "k")}, {"dead_letter": Binding("dead", "other")}),
    "another dead letter exchange": ({"dead_letter": Binding("dead", "k")}, {"dead_letter": Binding("other", "k")}),
}


@pytest.mark.parametrize("change", CHANGES)
@conformance
async def test_a_queue_keeps_its_arguments(corner: Corner, change: str) -> None:
    name, (before, after) = corner.name("queue"), CHANGES[change]
    await corner.declare(Topology((), (Queue(name, **before),)))

    with pytest.raises(TopologyMismatch, match=name):
        await corner.transport.declare(Topology((), (Queue(name, **after),)))

    await corner.transport.declare(Topology((), (Queue(name, **before),)))


@pytest.mark.parametrize("more", [{"single_active": True}, {"dead_letter": Binding("dead", "k")}], ids=["single-active", "dead-letter"])
@conformance
async def test_a_classic_queue_has_no_arguments_to_differ_in(corner: Corner, more: dict[str, Any]) -> None:
    queue = await corner.queue(type="classic")

    await corner.transport.declare(Topology((), (Queue(queue.name, "classic", **more),)))


@conformance
async def test_after_a_mismatch_everything_goes_on(corner: Corner) -> None:
    queue, write = await corner.direct()
    received = Received()
    await corner.transport.consume(queue, received, prefetch=1)
    with pytest.raises(TopologyMismatch):
        await corner.transport.declare(Topology((), (Queue(queue.name, "classic"),)))

    assert await corner.publish(write(b"1")) == [Confirmed()]
    await received.reach(1)


@conformance
async def test_a_binding_to_an_exchange_that_is_not_there_is_named(corner: Corner) -> None:
    missing = corner.name("nowhere")
    queue = Queue(corner.name("queue"), bindings=(Binding(missing, "k"),))
    corner.declared |= Topology((), (queue,))

    with pytest.raises(TopologyMissing, match=missing):
        await corner.transport.declare(Topology((), (queue,)))


@conformance
async def test_a_declare_that_failed_leaves_what_came_before_on_rabbitmq_and_nothing_embedded(corner: Corner) -> None:
    queue = await corner.queue()
    first = Queue(corner.name("first"))
    corner.declared |= Topology((), (first,))

    with pytest.raises(TopologyMismatch):
        await corner.transport.declare(Topology((), (first, Queue(queue.name, "classic"))))

    assert await corner.transport.depth(first.name) == {"rabbitmq": 0, "embedded": None}[corner.kind]


@conformance
async def test_a_topology_may_bind_to_the_exchanges_it_brings(corner: Corner) -> None:
    exchange = Exchange(corner.name("direct"), "direct")
    queue = Queue(corner.name("queue"), bindings=(Binding(exchange.name, "k"),))

    await corner.declare(Topology((exchange,), (queue,)))

    assert await corner.publish(outgoing(exchange, "k")) == [Confirmed()]


@conformance
async def test_a_dead_letter_may_name_an_exchange_that_is_not_there_yet(corner: Corner) -> None:
    queue = Queue(corner.name("queue"), dead_letter=Binding(corner.name("later"), "k"))

    await corner.declare(Topology((), (queue,)))

    assert await corner.transport.depth(queue.name) == 0


@conformance
async def test_what_is_there_is_verified(corner: Corner) -> None:
    exchange = await corner.exchange("topic")
    queue = await corner.queue(exchange, "#")

    await corner.transport.verify(Topology((exchange,), (queue,)))


@pytest.mark.parametrize("what", ["exchange", "queue"])
@conformance
async def test_what_is_missing_is_named(corner: Corner, what: str) -> None:
    exchange = await corner.exchange("topic")
    queue = await corner.queue(exchange, "#")
    missing = corner.name("missing")
    more = Topology((Exchange(missing, "topic"),)) if what == "exchange" else Topology((), (Queue(missing),))
    topology = Topology((exchange,), (queue,)) | more

    with pytest.raises(TopologyMissing, match=f"{what} '{missing}'"):
        await corner.transport.verify(topology)


@conformance
async def test_verifying_creates_nothing(corner: Corner) -> None:
    missing = Topology((Exchange(corner.name("missing"), "topic"),), (Queue(corner.name("missing")),))
    for _ in range(2):
        with pytest.raises(TopologyMissing):
            await corner.transport.verify(missing)

    with pytest.raises(TopologyMissing):
        await corner.transport.verify(Topology((), missing.queues))


@conformance
async def test_verifying_asks_for_no_exclusive_queue(corner: Corner) -> None:
    await corner.transport.verify(Topology((), (Queue(corner.name("replies"), "exclusive"),)))


@conformance
async def test_the_whole_topology_of_the_platform_is_declared_and_verified(corner: Corner) -> None:
    names = Names(corner.prefix)
    by_command = Binding(names.exchange("commands"), "*.*.reserve.v1.*")
    queues = (
        Queue(names.queue("stock.reserve"), bindings=(by_command,), dead_letter=Binding(names.exchange("dead"), "stock")),
        Queue(names.dead("stock"), bindings=(Binding(names.exchange("dead"), "stock"),)),
        Queue(names.replies("stock"), bindings=(Binding(names.exchange("replies"), names.replies("stock")),)),
    )

    await corner.declare(Topology(names.exchanges(), queues))

    await corner.transport.verify(corner.declared)


@conformance
async def test_the_depth_of_what_is_not_there_is_none(corner: Corner) -> None:
    assert await corner.transport.depth(corner.name("missing")) is None


@pytest.mark.parametrize("type_", ["quorum", "classic"])
@conformance
async def test_the_depth_is_what_is_ready(corner: Corner, type_: str) -> None:
    queue, write = await corner.direct(type=type_)
    await corner.transport.publish(numbered(write, 5))
    await corner.until_depth(queue, 5)

    received, subscription = await corner.consume(queue, prefetch=2)
    await received.reach(2)
    await corner.until_depth(queue, 3)
    received[0].requeue()
    await received.reach(3)
    await corner.until_depth(queue, 3)

    await subscription.cancel()
    received[1].ack()
    received[2].requeue()
    await corner.until_depth(queue, 4)


@pytest.mark.parametrize("type_", ["quorum", "classic"])
@conformance
async def test_a_purge_drops_what_is_ready(corner: Corner, type_: str) -> None:
    queue, write = await corner.direct(type=type_)
    await corner.transport.publish(numbered(write, 5))
    await corner.until_depth(queue, 5)

    await corner.transport.purge(queue.name)

    await corner.until_depth(queue, 0)
    await corner.publish(write(b"next"))
    assert await corner.left_in(queue) == [b"next"]


@conformance
async def test_a_purge_leaves_what_was_delivered(corner: Corner) -> None:
    queue, write = await corner.direct()
    await corner.transport.publish(numbered(write, 3))
    received, _ = await corner.consume(queue, prefetch=1)
    await received.reach(1)

    await corner.transport.purge(queue.name)
    received[0].requeue()

    await received.reach(2)
    assert received.bodies == [b"0", b"0"]


@conformance
async def test_a_purge_is_not_undone_by_a_new_connection(corner: Corner) -> None:
    queue, write = await corner.direct()
    await corner.transport.publish(numbered(write, 3))
    await corner.transport.purge(queue.name)

    await corner.reopen()

    assert await corner.transport.depth(queue.name) == 0


@conformance
async def test_a_purge_sends_nothing_to_the_dead(corner: Corner) -> None:
    exchange = await corner.exchange("direct")
    dead = await corner.queue(exchange, "dead")
    queue = await corner.queue(exchange, "k", dead_letter=Binding(exchange.name, "dead"))
    await corner.publish(outgoing(exchange, "k"))

    await corner.transport.purge(queue.name)

    await corner.until_depth(queue, 0)
    assert await corner.transport.depth(dead.name) == 0


@conformance
async def test_purging_what_is_not_there_names_it(corner: Corner) -> None:
    missing = corner.name("missing")

    with pytest.raises(TopologyMissing, match=missing):
        await corner.transport.purge(missing)


@conformance
async def test_after_questions_for_what_is_not_there_everything_goes_on(corner: Corner) -> None:
    queue, write = await corner.direct()
    for _ in range(20):
        assert await corner.transport.depth(corner.name("missing")) is None

    assert await corner.publish(write(b"1"), outgoing(write().exchange, "nobody")) == [Confirmed(), Returned("NO_ROUTE")]
    assert await corner.left_in(queue) == [b"1"]


@conformance
async def test_many_questions_at_once_are_answered(corner: Corner) -> None:
    queue, write = await corner.direct()
    await corner.publish(write(b"1"))

    assert await asyncio.gather(*(corner.transport.depth(queue.name) for _ in range(50))) == [1] * 50


# --- bindings that go ---------------------------------------------------------------------------------------


def moved(queue: Queue, exchange: Exchange, *routing_keys: str) -> Queue:
    """`queue`, which is not to have these any more."""
    return replace(queue, bindings=(), unbound=tuple(Binding(exchange.name, key) for key in routing_keys))


@conformance
async def test_what_is_unbound_goes_to_the_other_queue_alone(corner: Corner) -> None:
    exchange = await corner.exchange("topic")
    old = await corner.queue(exchange, "a.*", "b.*")
    new = Queue(corner.name("new"), bindings=(Binding(exchange.name, "a.*"),))

    await corner.declare(Topology((), (moved(old, exchange, "a.*"), new)))

    await corner.publish(outgoing(exchange, "a.1", b"a"), outgoing(exchange, "b.1", b"b"))
    assert await corner.left_in(old) == [b"b"]
    assert await corner.left_in(new) == [b"a"]


@conformance
async def test_what_an_unbound_queue_holds_stays_in_it(corner: Corner) -> None:
    exchange = await corner.exchange("direct")
    queue = await corner.queue(exchange, "k")
    await corner.publish(outgoing(exchange, "k", b"before"))

    await corner.declare(Topology((), (moved(queue, exchange, "k"),)))

    assert await corner.publish(outgoing(exchange, "k", b"after")) == [Returned("NO_ROUTE")]
    assert await corner.left_in(queue) == [b"before"]


@conformance
async def test_unbinding_what_is_not_bound_changes_nothing(corner: Corner) -> None:
    exchange, other = await corner.exchange("topic"), await corner.exchange("topic")
    queue = await corner.queue(exchange, "a")

    for _ in range(2):
        await corner.declare(Topology((), (replace(moved(queue, exchange, "b", "#"), bindings=queue.bindings), moved(queue, other, "a"))))

    assert await corner.publish(outgoing(exchange, "a", b"1")) == [Confirmed()]
    assert await corner.left_in(queue) == [b"1"]


@conformance
async def test_a_binding_of_another_queue_stays(corner: Corner) -> None:
    exchange = await corner.exchange("topic")
    one, other = await corner.queue(exchange, "a"), await corner.queue(exchange, "a")

    await corner.declare(Topology((), (moved(one, exchange, "a"),)))

    await corner.publish(outgoing(exchange, "a", b"1"))
    assert await corner.left_in(other) == [b"1"]
    assert await corner.left_in(one) == []


@conformance
async def test_an_unbound_queue_may_be_bound_again(corner: Corner) -> None:
    exchange = await corner.exchange("topic")
    queue = await corner.queue(exchange, "a")
    await corner.declare(Topology((), (moved(queue, exchange, "a"),)))

    await corner.transport.declare(Topology((), (queue,)))

    assert await corner.publish(outgoing(exchange, "a")) == [Confirmed()]


@conformance
async def test_unbound_stays_unbound_over_a_crash(corner: Corner) -> None:
    exchange = await corner.exchange("topic")
    queue = await corner.queue(exchange, "a", "b")
    await corner.declare(Topology((), (moved(queue, exchange, "a"),)))

    await corner.crash()

    assert await corner.publish(outgoing(exchange, "a"), outgoing(exchange, "b")) == [Returned("NO_ROUTE"), Confirmed()]


@conformance
async def test_while_bindings_move_every_message_has_a_way(corner: Corner) -> None:
    """To and fro under traffic: no message comes back, and none is missing."""
    exchange = await corner.exchange("topic")
    keys = [f"k.{lane}" for lane in range(6)]
    one, other = await corner.queue(exchange, *keys), await corner.queue()
    sent, is_over = 0, False

    async def publish() -> None:
        nonlocal sent
        while not is_over:
            some = [outgoing(exchange, key, b"%d" % (sent + n)) for n, key in enumerate(keys)]
            assert await corner.publish(*some) == [Confirmed()] * len(keys)
            sent += len(keys)

    publishing = asyncio.create_task(publish())
    for source, target in ((one, other), (other, one), (one, other)):
        there = replace(target, bindings=tuple(Binding(exchange.name, key) for key in keys))
        await corner.transport.declare(Topology((), (moved(source, exchange, *keys), there)))
    is_over = True
    await publishing

    found = [*await corner.left_in(one), *await corner.left_in(other)]
    assert set(found) == {b"%d" % number for number in range(sent)}
