"""Consumers on both transports: competing, alone in turn, exclusive, and leaving."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from eventplat.broker.topology import Binding, Queue, Topology
from eventplat.broker.transport import Returned
from eventplat.errors import BrokerError, BrokerUnavailable, TopologyMissing
from tests.conformance.brokers import Corner, Received, ack, bodies, conformance, numbered, outgoing


@conformance
async def test_what_is_there_already_is_delivered_in_order(corner: Corner) -> None:
    queue, write = await corner.direct()
    await corner.transport.publish(numbered(write, 50))

    received, _ = await corner.consume(queue)

    assert [each.body for each in await received.reach(50)] == bodies(50)


@conformance
async def test_what_comes_later_is_delivered_in_order(corner: Corner) -> None:
    queue, write = await corner.direct()
    received, subscription = await corner.consume(queue)

    await corner.transport.publish(numbered(write, 50))

    assert [each.body for each in await received.reach(50)] == bodies(50)
    assert subscription.is_active


@conformance
async def test_consuming_what_is_not_there_names_it(corner: Corner) -> None:
    name = corner.name("missing")

    with pytest.raises(TopologyMissing, match=name):
        await corner.consume(Queue(name))


@conformance
async def test_after_a_refused_consume_the_others_go_on(corner: Corner) -> None:
    queue, write = await corner.direct()
    received, subscription = await corner.consume(queue, ack)
    with pytest.raises(TopologyMissing):
        await corner.consume(Queue(corner.name("missing")))

    await corner.publish(write(b"1"))

    await received.reach(1)
    assert subscription.is_active


@pytest.mark.parametrize("type_", ["quorum", "classic"])
@conformance
async def test_competing_consumers_get_each_message_once(corner: Corner, type_: str) -> None:
    queue, write = await corner.direct(type=type_)
    consumers = [(await corner.consume(queue, ack, prefetch=5))[0] for _ in range(3)]

    await corner.transport.publish(numbered(write, 150))

    await corner.until_depth(queue, 0)
    while sum(map(len, consumers)) < 150:
        await asyncio.sleep(0)
    assert Counter(body for consumer in consumers for body in consumer.bodies) == Counter(bodies(150))


@conformance
async def test_competing_consumers_share_the_work(corner: Corner) -> None:
    queue, write = await corner.direct()
    consumers = [(await corner.consume(queue, ack, prefetch=1))[0] for _ in range(3)]

    await corner.transport.publish(numbered(write, 150))

    while sum(map(len, consumers)) < 150:
        await asyncio.sleep(0)
    assert min(map(len, consumers)) >= 15


@conformance
async def test_a_full_consumer_leaves_the_rest_to_the_other(corner: Corner) -> None:
    queue, write = await corner.direct()
    full, _ = await corner.consume(queue, prefetch=1)
    other, _ = await corner.consume(queue, ack, prefetch=1)

    await corner.transport.publish(numbered(write, 20))

    await other.reach(19)
    assert len(full) == 1
    assert {*full.bodies, *other.bodies} == set(bodies(20))


@conformance
async def test_consumers_of_two_transports_compete(corner: Corner) -> None:
    queue, write = await corner.direct()
    mine, _ = await corner.consume(queue, prefetch=1)
    theirs = Received(ack)
    await (await corner.another()).consume(queue, theirs, prefetch=1)

    await corner.transport.publish(numbered(write, 10))

    await theirs.reach(9)
    assert {*mine.bodies, *theirs.bodies} == set(bodies(10))


@conformance
async def test_what_one_gives_back_another_takes(corner: Corner) -> None:
    queue, write = await corner.direct()
    first, subscription = await corner.consume(queue)
    await corner.publish(write(b"1"))
    await first.reach(1)
    await subscription.cancel()
    second, _ = await corner.consume(queue)

    first[0].requeue()

    assert [(each.body, each.delivery_count) for each in await second.reach(1)] == [(b"1", 1)]


@conformance
async def test_what_a_leaving_transport_held_another_takes(corner: Corner) -> None:
    queue, write = await corner.direct()
    leaver = await corner.another()
    held = Received()
    await leaver.consume(queue, held, prefetch=3)
    await corner.transport.publish(numbered(write, 5))
    await held.reach(3)
    held[1].ack()
    await held.reach(4)
    received, _ = await corner.consume(queue)
    await received.reach(1)

    await leaver.close()

    await received.reach(4)
    assert sorted(received.bodies) == [b"0", b"2", b"3", b"4"]
    assert {each.body: each.delivery_count for each in received.deliveries} == {b"0": 1, b"2": 1, b"3": 1, b"4": 0}


@conformance
async def test_a_single_active_consumer_gets_everything(corner: Corner) -> None:
    queue, write = await corner.direct(single_active=True)
    active, _ = await corner.consume(queue, ack, prefetch=2)
    waiting, _ = await corner.consume(queue, ack, prefetch=2)

    await corner.transport.publish(numbered(write, 30))

    await active.reach(30)
    assert (active.bodies, waiting.bodies) == (bodies(30), [])


@conformance
async def test_a_full_single_active_consumer_keeps_its_turn(corner: Corner) -> None:
    queue, write = await corner.direct(single_active=True)
    active, _ = await corner.consume(queue, prefetch=1)
    waiting, _ = await corner.consume(queue, ack, prefetch=10)
    await corner.transport.publish(numbered(write, 5))
    await active.reach(1)

    for index in range(4):
        active[index].ack()
        await active.reach(index + 2)

    assert (active.bodies, waiting.bodies) == (bodies(5), [])


@conformance
async def test_the_next_takes_over_when_the_active_one_cancels(corner: Corner) -> None:
    queue, write = await corner.direct(single_active=True)
    active, subscription = await corner.consume(queue, ack)
    waiting, _ = await corner.consume(queue, ack)
    await corner.publish(write(b"1"))
    await active.reach(1)

    await subscription.cancel()
    await corner.publish(write(b"2"))

    await waiting.reach(1)
    assert (active.bodies, waiting.bodies) == ([b"1"], [b"2"])


@pytest.mark.parametrize("crashes", [False, True], ids=["closes", "crashes"])
@conformance
async def test_the_next_takes_over_what_the_active_one_had_not_settled(corner: Corner, crashes: bool) -> None:
    queue, write = await corner.direct(single_active=True)
    held = Received()
    await corner.transport.consume(queue, held, prefetch=3)
    await corner.transport.publish(numbered(write, 4))
    await held.reach(3)
    held[0].ack()
    await held.reach(4)

    await (corner.crash() if crashes else corner.reopen())
    received, _ = await corner.consume(queue, ack)

    await received.reach(3)
    assert [(each.body, each.delivery_count) for each in received.deliveries] == [(b"1", 1), (b"2", 1), (b"3", 1)]


@conformance
async def test_the_turn_goes_round_among_transports(corner: Corner) -> None:
    queue, write = await corner.direct(single_active=True)
    parties = [await corner.another() for _ in range(3)]
    receivers = [Received(ack) for _ in parties]
    for transport, receiver in zip(parties, receivers, strict=True):
        await transport.consume(queue, receiver, prefetch=5)

    for number, (transport, receiver) in enumerate(zip(parties, receivers, strict=True)):
        await corner.publish(write(b"%d" % number))
        await receiver.reach(1)
        await transport.close()

    assert [receiver.bodies for receiver in receivers] == [[b"0"], [b"1"], [b"2"]]


@conformance
async def test_a_cancelled_consumer_gets_nothing_more(corner: Corner) -> None:
    queue, write = await corner.direct()
    received, subscription = await corner.consume(queue, ack)
    await corner.publish(write(b"1"))
    await received.reach(1)

    await subscription.cancel()
    await corner.publish(write(b"2"))

    await corner.until_depth(queue, 1)
    assert received.bodies == [b"1"]
    assert not subscription.is_active


@conformance
async def test_cancelling_twice_is_cancelling_once(corner: Corner) -> None:
    queue, write = await corner.direct()
    _, subscription = await corner.consume(queue)

    await subscription.cancel()
    await subscription.cancel()

    await corner.publish(write(b"1"))
    assert await corner.left_in(queue) == [b"1"]


@conformance
async def test_a_consumer_may_be_cancelled_after_its_transport_has_gone(corner: Corner) -> None:
    queue, _ = await corner.direct()
    _, subscription = await corner.consume(queue)
    await corner.reopen()

    assert not subscription.is_active
    await subscription.cancel()


@conformance
async def test_a_cancel_keeps_what_was_delivered_with_the_consumer(corner: Corner) -> None:
    queue, write = await corner.direct()
    received, subscription = await corner.consume(queue)
    await corner.transport.publish(numbered(write, 3))
    await received.reach(3)

    await subscription.cancel()
    other, _ = await corner.consume(queue)
    await corner.publish(write(b"3"))

    await other.reach(1)
    assert other.bodies == [b"3"]


@conformance
async def test_consumers_come_and_go_and_nothing_is_lost(corner: Corner) -> None:
    queue, write = await corner.direct()
    seen: list[bytes] = []
    for number in range(10):
        await corner.publish(write(b"%d" % number))
        seen += [each.body for each in await corner.take(queue, 1)]

    assert seen == bodies(10)


def replies_of(corner: Corner, exchange: str, key: str = "r") -> Queue:
    return Queue(corner.name("replies"), "exclusive", (Binding(exchange, key),))


@conformance
async def test_an_exclusive_queue_is_there_while_it_is_consumed(corner: Corner) -> None:
    exchange = await corner.exchange("direct")
    queue = replies_of(corner, exchange.name)
    received, subscription = await corner.consume(queue)
    await corner.publish(outgoing(exchange, "r", b"1"))
    assert [each.body for each in await received.reach(1)] == [b"1"]

    await subscription.cancel()

    assert await corner.publish(outgoing(exchange, "r")) == [Returned("NO_ROUTE")]
    assert await corner.transport.depth(queue.name) is None


@pytest.mark.parametrize("crashes", [False, True], ids=["closes", "crashes"])
@conformance
async def test_an_exclusive_queue_goes_with_its_transport(corner: Corner, crashes: bool) -> None:
    exchange = await corner.exchange("direct")
    queue = replies_of(corner, exchange.name)
    await corner.consume(queue)

    await (corner.crash() if crashes else corner.reopen())

    await corner.until_depth(queue, None)
    assert await corner.publish(outgoing(exchange, "r")) == [Returned("NO_ROUTE")]


@conformance
async def test_an_exclusive_queue_starts_empty_each_time(corner: Corner) -> None:
    exchange = await corner.exchange("direct")
    queue = replies_of(corner, exchange.name)
    for number in range(3):
        received, subscription = await corner.consume(queue)
        await corner.publish(outgoing(exchange, "r", str(number)))
        await received.reach(1)
        assert received.bodies == [b"%d" % number]
        await subscription.cancel()


@conformance
async def test_an_exclusive_queue_belongs_to_one_transport(corner: Corner) -> None:
    exchange = await corner.exchange("direct")
    queue = replies_of(corner, exchange.name)
    await (await corner.another()).consume(queue, Received(), prefetch=1)
    hurried = corner.broker.transport(patience_s=0.3)
    await hurried.open()

    with pytest.raises(BrokerUnavailable):
        await hurried.consume(queue, Received(), prefetch=1)

    await hurried.close()


@conformance
async def test_an_exclusive_queue_belongs_to_one_consumer(corner: Corner) -> None:
    exchange = await corner.exchange("direct")
    queue = replies_of(corner, exchange.name)
    hurried = corner.broker.transport(patience_s=0.3)
    await hurried.open()
    received = Received()
    await hurried.consume(queue, received, prefetch=1)

    with pytest.raises(BrokerUnavailable):
        await hurried.consume(queue, Received(), prefetch=1)

    assert await corner.publish(outgoing(exchange, "r", b"1")) != [Returned("NO_ROUTE")]
    assert [each.body for each in await received.reach(1)] == [b"1"]
    await hurried.close()


@conformance
async def test_an_exclusive_queue_is_nobody_elses_to_look_at(corner: Corner) -> None:
    exchange = await corner.exchange("direct")
    queue = replies_of(corner, exchange.name)
    await (await corner.another()).consume(queue, Received(), prefetch=1)

    with pytest.raises(BrokerError, match=queue.name):
        await corner.transport.depth(queue.name)
    with pytest.raises(BrokerError, match=queue.name):
        await corner.transport.purge(queue.name)


@conformance
async def test_its_owner_may_look_at_an_exclusive_queue(corner: Corner) -> None:
    exchange = await corner.exchange("direct")
    queue = replies_of(corner, exchange.name)
    await corner.consume(queue)

    await corner.transport.purge(queue.name)

    assert await corner.transport.depth(queue.name) == 0


@conformance
async def test_an_exclusive_queue_bound_to_nothing_there_is_not_left_behind(corner: Corner) -> None:
    exchange = await corner.exchange("direct")
    missing = corner.name("nowhere")
    queue = Queue(corner.name("replies"), "exclusive", (Binding(exchange.name, "r"), Binding(missing, "r")))

    with pytest.raises(TopologyMissing, match=missing):
        await corner.consume(queue)

    assert await corner.publish(outgoing(exchange, "r")) == [Returned("NO_ROUTE")]
    await corner.until_depth(queue, None)


@conformance
async def test_a_durable_queue_is_not_taken_for_an_exclusive_one(corner: Corner) -> None:
    queue, write = await corner.direct()
    hurried = corner.broker.transport(patience_s=0.3)
    await hurried.open()

    with pytest.raises(BrokerUnavailable):
        await hurried.consume(Queue(queue.name, "exclusive"), Received(), prefetch=1)

    await hurried.close()
    await corner.publish(write(b"1"))
    assert await corner.left_in(queue) == [b"1"]


@conformance
async def test_every_instance_hears_a_broadcast_once(corner: Corner) -> None:
    exchange = await corner.exchange("fanout")
    ears = [(await corner.consume(replies_of(corner, exchange.name, "")))[0] for _ in range(4)]

    await corner.transport.publish([outgoing(exchange, "", str(number)) for number in range(5)])

    for ear in ears:
        assert [each.body for each in await ear.reach(5)] == bodies(5)


@conformance
async def test_a_transport_consumes_many_queues(corner: Corner) -> None:
    exchange = await corner.exchange("direct")
    queues = [await corner.queue(exchange, str(number), type="classic") for number in range(12)]
    receivers = [(await corner.consume(queue, ack))[0] for queue in queues]

    await corner.transport.publish([outgoing(exchange, str(number % 12), str(number)) for number in range(120)])

    for number, receiver in enumerate(receivers):
        assert [each.body for each in await receiver.reach(10)] == [b"%d" % each for each in range(number, 120, 12)]


@conformance
async def test_declaring_does_not_create_an_exclusive_queue(corner: Corner) -> None:
    exchange = await corner.exchange("direct")
    queue = replies_of(corner, exchange.name)

    await corner.transport.declare(Topology((exchange,), (queue,)))

    assert await corner.transport.depth(queue.name) is None
