"""Settling on both transports: ack, requeue and dead letter, once each, counted, and what prefetch allows meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

import pytest

from eventplat.broker.topology import Binding, Queue
from eventplat.broker.transport import Delivery, Outgoing
from tests.conformance.brokers import Corner, ack, bodies, conformance, numbered, outgoing

Settling = Literal["ack", "requeue", "dead_letter"]
SETTLINGS: tuple[Settling, ...] = ("ack", "requeue", "dead_letter")


def settle(delivery: Delivery, how: Settling) -> None:
    getattr(delivery, how)()


async def with_dead(corner: Corner, **options: object) -> tuple[Queue, Queue, Callable[..., Outgoing]]:
    """A queue, the queue of its dead, and how to write to the first."""
    exchange = await corner.exchange("direct")
    dead = await corner.queue(exchange, "dead")
    queue = await corner.queue(exchange, "k", dead_letter=Binding(exchange.name, "dead"), **options)  # type: ignore[arg-type]
    return queue, dead, lambda body=b"{}", **more: outgoing(exchange, "k", body, **more)


@conformance
async def test_what_is_acked_never_comes_again(corner: Corner) -> None:
    queue, write = await corner.direct()
    await corner.transport.publish(numbered(write, 5))
    await corner.take(queue, 5)

    await corner.reopen()

    await corner.until_depth(queue, 0)
    await corner.publish(write(b"next"))
    assert await corner.left_in(queue) == [b"next"]


@conformance
async def test_acks_in_any_order_settle_what_they_name(corner: Corner) -> None:
    queue, write = await corner.direct()
    await corner.transport.publish(numbered(write, 6))
    received, subscription = await corner.consume(queue)
    for index in (3, 0, 4, 1):
        (await received.reach(6))[index].ack()
    await subscription.cancel()

    await corner.reopen()

    await corner.until_depth(queue, 2)
    assert sorted(await corner.left_in(queue)) == [b"2", b"5"]


@conformance
async def test_what_is_given_back_comes_again_and_is_not_counted_where_the_broker_can_tell(corner: Corner) -> None:
    queue, write = await corner.direct()
    await corner.publish(write(b"1"))
    seen: list[int] = []

    def receive(delivery: Delivery) -> None:
        seen.append(delivery.delivery_count)
        delivery.give_back() if len(seen) < 4 else delivery.ack()

    received, _ = await corner.consume(queue, receive)

    await received.reach(4)
    assert received.bodies == [b"1"] * 4
    assert seen in ([0, 0, 0, 0], [0, 1, 2, 3]), "RabbitMQ counts it before 4.3"
    assert seen == [0, 0, 0, 0] or corner.broker.kind == "rabbitmq"


@conformance
async def test_what_is_requeued_comes_again_counted(corner: Corner) -> None:
    queue, write = await corner.direct()
    await corner.publish(write(b"1"))

    received, _ = await corner.consume(queue, lambda delivery: delivery.requeue() if delivery.delivery_count < 4 else delivery.ack())

    await received.reach(5)
    assert received.bodies == [b"1"] * 5
    assert received.counts == [0, 1, 2, 3, 4]
    assert [each.redelivered for each in received.deliveries] == [False, True, True, True, True]


@conformance
async def test_what_is_requeued_goes_to_its_own_queue_alone(corner: Corner) -> None:
    exchange = await corner.exchange("fanout")
    queue, neighbour = await corner.queue(exchange, ""), await corner.queue(exchange, "")
    await corner.publish(outgoing(exchange, "", b"1"))
    received, _ = await corner.consume(queue)

    (await received.reach(1))[0].requeue()

    await received.reach(2)
    assert await corner.left_in(neighbour) == [b"1"]


@conformance
async def test_what_is_requeued_goes_before_what_was_never_handed_out(corner: Corner) -> None:
    queue, write = await corner.direct()
    await corner.transport.publish(numbered(write, 4))
    received, _ = await corner.consume(queue, prefetch=1)

    (await received.reach(1))[0].requeue()
    for index in range(1, 5):
        (await received.reach(index + 1))[index].ack()

    assert received.bodies == [b"0", b"0", b"1", b"2", b"3"]


@conformance
async def test_the_count_is_each_queues_own(corner: Corner) -> None:
    exchange = await corner.exchange("fanout")
    first, second = await corner.queue(exchange, ""), await corner.queue(exchange, "")
    await corner.publish(outgoing(exchange, "", b"1"))
    received, _ = await corner.consume(first, lambda delivery: delivery.requeue() if delivery.delivery_count < 2 else delivery.ack())
    await received.reach(3)

    assert [(each.delivery_count, each.redelivered) for each in await corner.take(second, 1)] == [(0, False)]


@conformance
async def test_a_classic_queue_of_rabbitmq_only_says_that_it_was_handed_out(corner: Corner) -> None:
    queue, write = await corner.direct(type="classic")
    await corner.publish(write(b"1"))
    received, _ = await corner.consume(queue)
    for index in range(3):
        (await received.reach(index + 1))[index].requeue()

    await received.reach(4)

    assert received.counts == {"rabbitmq": [0, 1, 1, 1], "embedded": [0, 1, 2, 3]}[corner.kind]


@conformance
async def test_what_is_dead_lettered_goes_to_the_binding(corner: Corner) -> None:
    queue, dead, write = await with_dead(corner)
    await corner.publish(write(b"1", headers={"key": "k"}, message_id="m-1"))
    received, _ = await corner.consume(queue)

    (await received.reach(1))[0].dead_letter()

    (buried,) = await corner.take(dead, 1)
    assert (buried.body, buried.routing_key, buried.queue) == (b"1", "dead", dead.name)
    assert (buried.properties.message_id, buried.properties.headers) == ("m-1", {"key": "k"})
    goes_on = [(1, True)] if corner.kind == "rabbitmq" else []  # RabbitMQ 4.3 goes on with the count of the queue that it comes from
    assert (buried.delivery_count, buried.redelivered) in [(0, False), *goes_on]
    assert await corner.transport.depth(queue.name) == 0


@conformance
async def test_what_is_dead_lettered_without_a_binding_is_dropped(corner: Corner) -> None:
    queue, write = await corner.direct()
    await corner.publish(write(b"1"), write(b"2"))
    received, _ = await corner.consume(queue, prefetch=1)
    (await received.reach(1))[0].dead_letter()
    (await received.reach(2))[1].ack()

    await corner.reopen()

    assert received.bodies == [b"1", b"2"]
    await corner.until_depth(queue, 0)


@conformance
async def test_a_classic_queue_has_no_dead_letters(corner: Corner) -> None:
    queue, dead, write = await with_dead(corner, type="classic")
    await corner.publish(write(b"1"), write(b"2"))
    received, _ = await corner.consume(queue, prefetch=1)
    (await received.reach(1))[0].dead_letter()
    await received.reach(2)

    assert await corner.transport.depth(dead.name) == 0


@conformance
async def test_the_dead_of_many_stand_in_their_order(corner: Corner) -> None:
    queue, dead, write = await with_dead(corner)
    await corner.consume(queue, lambda delivery: delivery.dead_letter(), prefetch=1)

    await corner.transport.publish(numbered(write, 20))

    await corner.until_depth(dead, 20)
    assert await corner.left_in(dead) == bodies(20)


@conformance
async def test_the_dead_can_be_dead_lettered_again(corner: Corner) -> None:
    exchange = await corner.exchange("direct")
    last = await corner.queue(exchange, "last")
    dead = await corner.queue(exchange, "dead", dead_letter=Binding(exchange.name, "last"))
    queue = await corner.queue(exchange, "k", dead_letter=Binding(exchange.name, "dead"))
    await corner.consume(queue, lambda delivery: delivery.dead_letter())
    await corner.consume(dead, lambda delivery: delivery.dead_letter())

    await corner.publish(outgoing(exchange, "k", b"1"))

    await corner.until_depth(last, 1)


@conformance
async def test_a_message_is_handed_out_once_more_than_the_limit_then_dead_lettered(corner: Corner) -> None:
    queue, dead, write = await with_dead(corner)
    received, _ = await corner.consume(queue, lambda delivery: delivery.requeue())

    await corner.publish(write(b"poison"))

    await corner.until_depth(dead, 1)
    assert received.counts == list(range(51))


@pytest.mark.parametrize("second", SETTLINGS)
@pytest.mark.parametrize("first", SETTLINGS)
@conformance
async def test_settling_twice_is_settling_once(corner: Corner, first: Settling, second: Settling) -> None:
    queue, dead, write = await with_dead(corner)
    await corner.publish(write(b"1"))
    received, _ = await corner.consume(queue, prefetch=1)
    (delivery,) = await received.reach(1)

    settle(delivery, first)
    settle(delivery, second)
    if first == "requeue":
        (await received.reach(2))[1].ack()
    await corner.publish(write(b"2"))
    (await received.reach(3 if first == "requeue" else 2))[-1].ack()

    await corner.until_depth(dead, int(first == "dead_letter"))
    assert received.bodies[-1] == b"2"
    assert corner.transport.state == "connected"


@pytest.mark.parametrize("how", SETTLINGS)
@conformance
async def test_what_was_delivered_before_a_cancel_can_still_be_settled(corner: Corner, how: Settling) -> None:
    queue, dead, write = await with_dead(corner)
    await corner.publish(write(b"1"), write(b"2"))
    received, subscription = await corner.consume(queue)
    await received.reach(2)
    await subscription.cancel()

    settle(received[0], how)
    received[1].ack()

    await corner.until_depth(dead, int(how == "dead_letter"))
    await corner.until_depth(queue, int(how == "requeue"))
    await corner.reopen()
    await corner.until_depth(queue, int(how == "requeue"))


@pytest.mark.parametrize("how", SETTLINGS)
@conformance
async def test_settling_after_the_transport_was_closed_does_nothing(corner: Corner, how: Settling) -> None:
    queue, dead, write = await with_dead(corner)
    await corner.publish(write(b"1"))
    received, _ = await corner.consume(queue)
    (delivery,) = await received.reach(1)
    await corner.reopen()

    settle(delivery, how)

    await corner.until_depth(queue, 1)
    assert [(each.body, each.delivery_count) for each in await corner.take(queue, 1)] == [(b"1", 1)]
    assert await corner.transport.depth(dead.name) == 0


@pytest.mark.parametrize("how", SETTLINGS)
@conformance
async def test_settling_after_a_crash_does_nothing(corner: Corner, how: Settling) -> None:
    queue, dead, write = await with_dead(corner)
    await corner.publish(write(b"1"))
    received, _ = await corner.consume(queue)
    (delivery,) = await received.reach(1)
    await corner.crash()

    settle(delivery, how)

    await corner.until_depth(queue, 1)
    assert [(each.body, each.delivery_count) for each in await corner.take(queue, 1)] == [(b"1", 1)]
    assert await corner.transport.depth(dead.name) == 0


@conformance
async def test_a_settlement_just_before_the_close_counts(corner: Corner) -> None:
    queue, dead, write = await with_dead(corner)
    await corner.transport.publish(numbered(write, 3))
    received, _ = await corner.consume(queue)
    first, second, third = await received.reach(3)
    first.ack()
    second.dead_letter()
    third.requeue()

    await corner.reopen()

    await corner.until_depth(queue, 1)
    (back,) = await corner.take(queue, 1)
    assert back.body == b"2"
    assert back.delivery_count >= 1  # 2 where it was on its way to the leaving consumer once more
    assert await corner.left_in(dead) == [b"1"]


@pytest.mark.parametrize("prefetch", [1, 2, 7, 100])
@conformance
async def test_prefetch_bounds_what_is_unsettled(corner: Corner, prefetch: int) -> None:
    queue, write = await corner.direct()
    await corner.transport.publish(numbered(write, 120))

    received, _ = await corner.consume(queue, prefetch=prefetch)
    await corner.until_depth(queue, 120 - prefetch)

    assert received.bodies == bodies(prefetch)
    received[0].ack()
    await received.reach(prefetch + 1)
    await corner.until_depth(queue, 120 - prefetch - 1)
    assert received.bodies == bodies(prefetch + 1)


@pytest.mark.parametrize("how", SETTLINGS)
@conformance
async def test_each_settlement_makes_room_for_one_more(corner: Corner, how: Settling) -> None:
    queue, _, write = await with_dead(corner)
    await corner.transport.publish(numbered(write, 6))
    received, _ = await corner.consume(queue, prefetch=2)
    await received.reach(2)

    for index in range(3):
        settle(received[index], how)
        await received.reach(index + 3)

    expected = {"requeue": [b"0", b"1", b"0", b"1", b"0"]}.get(how, bodies(5))
    assert received.bodies == expected


@conformance
async def test_the_largest_prefetch_is_taken(corner: Corner) -> None:
    queue, write = await corner.direct()
    await corner.transport.publish(numbered(write, 300))

    received, _ = await corner.consume(queue, ack, prefetch=65_535)

    assert [each.body for each in await received.reach(300)] == bodies(300)


@pytest.mark.parametrize("prefetch", [0, -1, 65_536])
@conformance
async def test_a_prefetch_that_bounds_nothing_is_refused(corner: Corner, prefetch: int) -> None:
    queue, _ = await corner.direct()

    with pytest.raises(ValueError, match="prefetch"):
        await corner.consume(queue, prefetch=prefetch)


@conformance
async def test_prefetch_is_each_consumers_own(corner: Corner) -> None:
    first, write_first = await corner.direct()
    second, write_second = await corner.direct()
    await corner.transport.publish([*numbered(write_first, 5), *numbered(write_second, 5)])

    one, _ = await corner.consume(first, prefetch=1)
    two, _ = await corner.consume(second, prefetch=3)
    await corner.until_depth(first, 4)
    await corner.until_depth(second, 2)

    assert (len(one), len(two)) == (1, 3)


@conformance
async def test_a_consumer_that_keeps_everything_starves_no_other_queue(corner: Corner) -> None:
    slow, write_slow = await corner.direct()
    quick, write_quick = await corner.direct()
    await corner.consume(slow, prefetch=1)
    received, _ = await corner.consume(quick, ack, prefetch=1)
    await corner.transport.publish(numbered(write_slow, 10))

    await corner.transport.publish(numbered(write_quick, 10))

    assert [each.body for each in await received.reach(10)] == bodies(10)


@conformance
async def test_a_receiver_that_raises_gets_its_message_again(corner: Corner) -> None:
    queue, write = await corner.direct()

    def receive(delivery: Delivery) -> None:
        if delivery.body == b"bad" and not delivery.delivery_count:
            raise RuntimeError
        delivery.ack()

    received, _ = await corner.consume(queue, receive, prefetch=1)
    await corner.publish(write(b"bad"), write(b"good"))

    await received.reach(3)
    assert received.bodies == [b"bad", b"bad", b"good"]
    assert corner.transport.state == "connected"


@conformance
async def test_settling_later_in_a_task_counts(corner: Corner) -> None:
    queue, write = await corner.direct()
    tasks: list[asyncio.Task[None]] = []

    async def handle(delivery: Delivery) -> None:
        await asyncio.sleep(0)
        delivery.ack()

    received, _ = await corner.consume(queue, lambda delivery: tasks.append(asyncio.create_task(handle(delivery))), prefetch=3)
    await corner.transport.publish(numbered(write, 30))
    await received.reach(30)
    await asyncio.gather(*tasks)

    await corner.reopen()

    assert await corner.transport.depth(queue.name) == 0


@conformance
async def test_an_exclusive_queue_needs_no_acks(corner: Corner) -> None:
    exchange = await corner.exchange("direct")
    replies = Queue(corner.name("replies"), "exclusive", (Binding(exchange.name, "r"),))
    received, _ = await corner.consume(replies, prefetch=1)

    await corner.transport.publish([outgoing(exchange, "r", str(number)) for number in range(20)])

    assert [each.body for each in await received.reach(20)] == bodies(20)
    for each in received.deliveries:
        each.ack()
        each.requeue()
        each.dead_letter()
    await corner.publish(outgoing(exchange, "r", "20"))
    assert [each.body for each in await received.reach(21)] == bodies(21)


@conformance
async def test_what_expires_is_dead_lettered_without_its_expiry(corner: Corner) -> None:
    queue, dead, write = await with_dead(corner)

    await corner.publish(write(b"1", expiration="1"))

    await corner.until_depth(queue, 0)
    await corner.until_depth(dead, 1)
    assert [(each.body, each.properties.expiration) for each in await corner.take(dead, 1)] == [(b"1", None)]


@conformance
async def test_what_has_not_expired_is_delivered_with_its_expiry(corner: Corner) -> None:
    queue, write = await corner.direct()
    await corner.publish(write(b"1", expiration="600000"))

    assert [each.properties.expiration for each in await corner.take(queue, 1)] == ["600000"]


