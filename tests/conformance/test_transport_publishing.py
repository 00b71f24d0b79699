"""Publishing on both transports: what becomes of each message, in which order, and what the publisher hears."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Literal

import pytest

from eventplat.broker.transport import Confirmed, Delivery, Nacked, Outcome, Outgoing, Returned
from eventplat.errors import BrokerUnavailable
from eventplat.messages.codec import Properties
from tests.conformance.brokers import Corner, bodies, conformance, numbered, outgoing


def kinds(outcomes: list[Outcome]) -> list[str]:
    return [type(outcome).__name__ for outcome in outcomes]


@conformance
async def test_a_confirmed_message_is_in_its_queue(corner: Corner) -> None:
    queue, write = await corner.direct()

    outcomes = await corner.publish(write(b"1"))

    assert outcomes == [Confirmed()]
    assert await corner.left_in(queue) == [b"1"]


@pytest.mark.parametrize("kind", ["topic", "direct", "fanout"])
@conformance
async def test_a_message_that_reaches_no_queue_comes_back(corner: Corner, kind: Literal["topic", "direct", "fanout"]) -> None:
    exchange = await corner.exchange(kind)

    assert await corner.publish(outgoing(exchange, "k")) == [Returned("NO_ROUTE")]


@pytest.mark.parametrize("kind", ["topic", "direct", "fanout"])
@conformance
async def test_a_message_that_may_reach_nobody_is_confirmed(corner: Corner, kind: Literal["topic", "direct", "fanout"]) -> None:
    exchange = await corner.exchange(kind)

    assert await corner.publish(outgoing(exchange, "k", mandatory=False)) == [Confirmed()]


@pytest.mark.parametrize("mandatory", [True, False], ids=["mandatory", "optional"])
@conformance
async def test_a_message_for_an_unknown_exchange_is_refused(corner: Corner, mandatory: bool) -> None:
    outcomes = await corner.publish(outgoing(corner.name("nowhere"), "k", mandatory=mandatory))

    assert kinds(outcomes) == ["Nacked"]
    assert isinstance(outcomes[0], Nacked)
    assert "no exchange" in outcomes[0].reason


@conformance
async def test_an_empty_batch_has_no_outcomes(corner: Corner) -> None:
    assert await corner.transport.publish([]) == []


@pytest.mark.parametrize("sequence", [list, tuple])
@conformance
async def test_a_batch_is_any_sequence(corner: Corner, sequence: Callable[[list[Outgoing]], list[Outgoing]]) -> None:
    _, write = await corner.direct()

    assert await corner.transport.publish(sequence(numbered(write, 2))) == [Confirmed()] * 2


@conformance
async def test_outcomes_stand_in_the_order_of_their_messages(corner: Corner) -> None:
    queue, write = await corner.direct()
    exchange, missing = write().exchange, corner.name("nowhere")

    outcomes = await corner.publish(
        write(b"0"), outgoing(exchange, "nobody"), write(b"1"), outgoing(missing, "k"),
        outgoing(exchange, "nobody", mandatory=False), write(b"2"),
    )

    assert kinds(outcomes) == ["Confirmed", "Returned", "Confirmed", "Nacked", "Confirmed", "Confirmed"]
    arrived = await corner.left_in(queue)
    assert list(dict.fromkeys(arrived)) == [b"0", b"1", b"2"]  # on RabbitMQ some twice: it does not say which was the culprit


@conformance
async def test_many_culprits_of_one_batch_are_refused_and_nobody_else(corner: Corner) -> None:
    queue, write = await corner.direct()
    missing = [corner.name("nowhere") for _ in range(4)]
    batch = [outgoing(missing[number % 4], "k") if number % 5 == 3 else write(b"%d" % number) for number in range(40)]

    outcomes = await corner.transport.publish(batch)

    assert kinds(outcomes) == ["Nacked" if number % 5 == 3 else "Confirmed" for number in range(40)]
    assert list(dict.fromkeys(await corner.left_in(queue))) == [b"%d" % number for number in range(40) if number % 5 != 3]


@conformance
async def test_after_a_refusal_everything_goes_on(corner: Corner) -> None:
    queue, write = await corner.direct()
    for number in range(3):
        await corner.publish(outgoing(corner.name("nowhere"), "k"))
        assert await corner.publish(write(b"%d" % number)) == [Confirmed()]

    assert corner.transport.state == "connected"
    assert await corner.left_in(queue) == bodies(3)


@conformance
async def test_a_refusal_does_not_touch_those_who_publish_meanwhile(corner: Corner) -> None:
    queue, write = await corner.direct()
    bad = [corner.publish(outgoing(corner.name("nowhere"), "k")) for _ in range(3)]
    good = [corner.publish(write(b"%d" % number)) for number in range(20)]

    outcomes = await asyncio.gather(*(pair for pairs in zip(good[:3], bad, strict=True) for pair in pairs), *good[3:])

    assert [kinds(each) for each in outcomes] == [["Confirmed"], ["Nacked"]] * 3 + [["Confirmed"]] * 17
    assert set(await corner.left_in(queue)) == set(bodies(20))


@pytest.mark.parametrize("count", [1, 2, 100, 1_000, 1_025, 2_500])
@conformance
async def test_a_batch_of_any_size_arrives_whole_and_in_order(corner: Corner, count: int) -> None:
    queue, write = await corner.direct()

    assert await corner.transport.publish(numbered(write, count)) == [Confirmed()] * count

    assert await corner.left_in(queue) == bodies(count)


@conformance
async def test_more_bytes_than_the_window_holds_arrive_whole_and_in_order(corner: Corner) -> None:
    queue, write = await corner.direct()
    big = [b"%02d" % number + bytes(1_048_574) for number in range(18)]

    assert await corner.transport.publish([write(body) for body in big]) == [Confirmed()] * 18

    assert [body[:2] for body in await corner.left_in(queue)] == [body[:2] for body in big]


@conformance
async def test_batches_of_one_publisher_keep_their_order(corner: Corner) -> None:
    queue, write = await corner.direct()
    for start in range(0, 50, 10):
        await corner.transport.publish([write(b"%d" % number) for number in range(start, start + 10)])

    assert await corner.left_in(queue) == bodies(50)


@conformance
async def test_calls_made_one_after_the_other_and_awaited_together_keep_their_order(corner: Corner) -> None:
    queue, write = await corner.direct()
    calls = [asyncio.ensure_future(corner.publish(write(b"%d" % number))) for number in range(50)]

    await asyncio.gather(*calls)

    assert await corner.left_in(queue) == bodies(50)


@conformance
async def test_many_publishers_at_once_each_keep_their_order(corner: Corner) -> None:
    queue, write = await corner.direct()
    batches = [[write(b"%d/%d" % (party, number)) for number in range(20)] for party in range(50)]

    outcomes = await asyncio.gather(*(corner.transport.publish(batch) for batch in batches))

    assert outcomes == [[Confirmed()] * 20] * 50
    arrived = await corner.left_in(queue)
    assert len(arrived) == 1_000
    for party in range(50):
        mine = [body for body in arrived if body.startswith(b"%d/" % party)]
        assert mine == [b"%d/%d" % (party, number) for number in range(20)]


@conformance
async def test_two_transports_publish_to_one_queue(corner: Corner) -> None:
    queue, write = await corner.direct()
    other = await corner.another()

    await asyncio.gather(*(transport.publish(numbered(write, 10)) for transport in (corner.transport, other)))

    assert sorted(await corner.left_in(queue)) == sorted(bodies(10) * 2)


@conformance
async def test_each_bound_queue_has_a_copy_of_its_own(corner: Corner) -> None:
    exchange = await corner.exchange("direct")
    queues = [await corner.queue(exchange, "k", type="classic") for _ in range(3)]

    assert await corner.publish(outgoing(exchange, "k", b"1")) == [Confirmed()]

    assert [await corner.left_in(queue) for queue in queues] == [[b"1"]] * 3


@conformance
async def test_a_flood_of_returns_finds_each_its_own_message(corner: Corner) -> None:
    queue, write = await corner.direct()
    exchange = write().exchange
    batch = [write(b"%d" % number) if number % 3 == 0 else outgoing(exchange, "nobody") for number in range(600)]

    outcomes = await corner.transport.publish(batch)

    assert kinds(outcomes) == ["Confirmed", "Returned", "Returned"] * 200
    assert len(await corner.left_in(queue)) == 200


@conformance
async def test_messages_that_look_the_same_are_returned_each_for_itself(corner: Corner) -> None:
    exchange = await corner.exchange("direct")
    same = functools.partial(Outgoing, exchange.name, "nobody", Properties(message_id="same"), b"")

    outcomes = await corner.transport.publish([same(mandatory=True), same(mandatory=False), same(mandatory=True)])

    assert kinds(outcomes) == ["Returned", "Confirmed", "Returned"]


@pytest.mark.parametrize("type_", ["quorum", "classic"])
@conformance
async def test_a_transient_message_is_confirmed_and_arrives(corner: Corner, type_: Literal["quorum", "classic"]) -> None:
    queue, write = await corner.direct(type=type_)

    assert await corner.publish(write(b"1", persistent=False)) == [Confirmed()]

    assert await corner.left_in(queue) == [b"1"]


@conformance
async def test_the_exchange_without_a_name_leads_to_the_queue_of_that_name(corner: Corner) -> None:
    queue = await corner.queue()

    outcomes = await corner.publish(outgoing("", queue.name, b"1"), outgoing("", corner.name("nobody")))

    assert outcomes == [Confirmed(), Returned("NO_ROUTE")]
    assert [(each.exchange, each.routing_key) for each in await corner.take(queue, 1)] == [("", queue.name)]


@conformance
async def test_a_consumer_may_publish_what_it_receives(corner: Corner) -> None:
    first, write = await corner.direct()
    second, write_on = await corner.direct()
    tasks: list[asyncio.Task[list[Outcome]]] = []

    def forward(delivery: Delivery) -> None:
        tasks.append(asyncio.create_task(corner.publish(write_on(delivery.body))))
        delivery.ack()

    await corner.consume(first, forward)
    await corner.transport.publish(numbered(write, 5))

    await corner.until_depth(second, 5)
    assert await corner.left_in(second) == bodies(5)


@conformance
async def test_a_publisher_that_stops_waiting_disturbs_nobody(corner: Corner) -> None:
    queue, write = await corner.direct()
    leaver = asyncio.create_task(corner.publish(write(b"maybe")))
    await asyncio.sleep(0)
    leaver.cancel()

    assert await corner.transport.publish(numbered(write, 3)) == [Confirmed()] * 3

    assert leaver.cancelled()
    assert [body for body in await corner.left_in(queue) if body != b"maybe"] == bodies(3)


@conformance
async def test_a_batch_that_is_not_settled_in_time_is_unavailable(corner: Corner) -> None:
    _, write = await corner.direct()

    with pytest.raises(BrokerUnavailable, match="not settled"):
        await corner.transport.publish([write()], timeout_s=0)


@conformance
async def test_after_a_publish_that_came_too_late_the_next_is_settled(corner: Corner) -> None:
    queue, write = await corner.direct()
    for _ in range(5):
        with pytest.raises(BrokerUnavailable):
            await corner.transport.publish([write(b"late")], timeout_s=0)

    assert await corner.transport.publish(numbered(write, 3)) == [Confirmed()] * 3

    assert [body for body in await corner.left_in(queue) if body != b"late"] == bodies(3)


@conformance
async def test_only_the_late_one_of_two_publishers_is_unavailable(corner: Corner) -> None:
    _, write = await corner.direct()

    late, other = await asyncio.gather(
        corner.transport.publish([write()], timeout_s=0), corner.transport.publish([write()]), return_exceptions=True
    )

    assert isinstance(late, BrokerUnavailable)
    assert other == [Confirmed()]


@conformance
async def test_a_message_is_sent_as_it_was_when_it_was_published(corner: Corner) -> None:
    queue, write = await corner.direct()
    message = write(b"1", headers={"key": "before"})
    publishing = asyncio.create_task(corner.publish(message))
    await asyncio.sleep(0)
    message.properties.headers["key"] = "after"

    await publishing

    assert [each.properties.headers for each in await corner.take(queue, 1)] == [{"key": "before"}]


@conformance
async def test_a_queue_without_a_consumer_keeps_everything(corner: Corner) -> None:
    queue, write = await corner.direct()

    await corner.transport.publish(numbered(write, 30))

    await corner.until_depth(queue, 30)


@conformance
async def test_copies_under_one_id_are_messages_of_their_own(corner: Corner) -> None:
    queue, write = await corner.direct()
    again = write(b"1", message_id="same")

    assert await corner.publish(again, again, again) == [Confirmed()] * 3

    assert await corner.left_in(queue) == [b"1"] * 3


@conformance
async def test_a_false_user_is_refused_where_the_broker_knows_users(corner: Corner) -> None:
    queue, write = await corner.direct()

    outcomes = await corner.publish(write(user_id="somebody-else"))

    assert kinds(outcomes) == [{"rabbitmq": "Nacked", "embedded": "Confirmed"}[corner.kind]]
    assert len(await corner.left_in(queue)) == {"rabbitmq": 0, "embedded": 1}[corner.kind]


