"""The embedded transport: what the conformance suite does not ask, since RabbitMQ answers it otherwise or not at all."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from eventplat.broker.embedded import WINDOW, EmbeddedTransport
from eventplat.broker.embedded_broker import EmbeddedBroker
from eventplat.broker.topology import Binding, Exchange, Queue, Topology
from eventplat.broker.transport import Confirmed, Delivery, Nacked, Outgoing, Returned
from eventplat.clock import SystemClock
from eventplat.errors import BrokerUnavailable, TopologyMismatch, TopologyMissing
from eventplat.messages.codec import Properties
from eventplat.testing.virtual_clock import VirtualClock

EXCHANGE = Exchange("x", "topic")
DEAD = Queue("dead", bindings=(Binding("x", "dead"),))
QUEUE = Queue("q", bindings=(Binding("x", "n.#"),), dead_letter=Binding("x", "dead"))
REPLIES = Queue("reply.1", "exclusive", (Binding("x", "reply.1"),))


class House:
    """A broker in memory and transports on it, as the services of one process have."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.broker = EmbeddedBroker(None, clock=self.clock)
        self.transports: list[EmbeddedTransport] = []

    async def transport(self) -> EmbeddedTransport:
        transport = EmbeddedTransport(self.broker, clock=self.clock, name=f"service{len(self.transports)}")
        await transport.open()
        await transport.declare(Topology((EXCHANGE,), (QUEUE, DEAD)))
        self.transports.append(transport)
        return transport


def on_loop(test: Callable[[House], Awaitable[None]]) -> Callable[[], None]:
    async def run() -> None:
        house = House()
        try:
            await test(house)
        finally:
            for transport in house.transports:
                await transport.close()

    @functools.wraps(test)
    def wrapper() -> None:
        asyncio.run(run())

    del wrapper.__wrapped__  # pytest would take its argument for a fixture
    return wrapper


def out(body: bytes = b"", key: str = "n.1", *, mandatory: bool = True, expiration: str | None = None) -> Outgoing:
    return Outgoing("x", key, Properties(headers={"key": "k"}, expiration=expiration), body, mandatory)


async def turn(times: int = 3) -> None:
    """Let what was noted be done."""
    for _ in range(times):
        await asyncio.sleep(0)


@on_loop
async def test_services_of_one_process_share_one_broker(house: House) -> None:
    orders, stock = await house.transport(), await house.transport()
    got: list[Delivery] = []
    await stock.consume(QUEUE, got.append, prefetch=10)

    assert await orders.publish([out(b"1"), out(b"2")]) == [Confirmed(), Confirmed()]

    assert [(each.body, each.queue) for each in got] == [(b"1", "q"), (b"2", "q")]
    assert [(each.exchange, each.routing_key) for each in got] == [("x", "n.1")] * 2
    assert [(each.delivery_count, each.redelivered) for each in got] == [(0, False)] * 2


@on_loop
async def test_a_message_without_a_queue_is_returned_and_without_an_exchange_refused(house: House) -> None:
    transport = await house.transport()

    optional, astray = out(key="nobody", mandatory=False), Outgoing("y", "k", Properties(), b"")
    outcomes = await transport.publish([out(), out(key="nobody"), optional, astray])

    assert outcomes == [Confirmed(), Returned("NO_ROUTE"), Confirmed(), Nacked("no exchange 'y'")]


@on_loop
async def test_unsettled_deliveries_of_a_closed_transport_come_again_first_and_counted(house: House) -> None:
    first, second = await house.transport(), await house.transport()
    seen: list[Delivery] = []
    await first.consume(QUEUE, seen.append, prefetch=3)
    await first.publish([out(str(number).encode()) for number in range(5)])
    seen[1].ack()
    await first.close()

    seen[0].ack()  # of a connection that is gone: does nothing
    got: list[Delivery] = []
    await second.consume(QUEUE, got.append, prefetch=10)
    await turn()

    assert [(each.body, each.delivery_count) for each in got] == [(b"0", 1), (b"2", 1), (b"3", 0), (b"4", 0)]
    assert [each.redelivered for each in got] == [True, True, False, False]


@on_loop
async def test_a_cancelled_consumer_settles_what_it_had_and_gets_nothing_more(house: House) -> None:
    transport = await house.transport()
    got: list[Delivery] = []
    subscription = await transport.consume(QUEUE, got.append, prefetch=2)
    await transport.publish([out(), out(), out()])

    await subscription.cancel()
    got[0].ack()
    got[1].requeue()
    await turn()

    assert len(got) == 2
    assert not subscription.is_active
    assert await transport.depth("q") == 2


@on_loop
async def test_the_next_single_active_consumer_takes_over_at_once(house: House) -> None:
    transport = await house.transport()
    alone = Queue("alone", bindings=(Binding("x", "alone"),), single_active=True)
    await transport.declare(Topology((), (alone,)))
    first: list[Delivery] = []
    second: list[Delivery] = []
    subscription = await transport.consume(alone, first.append, prefetch=1)
    await transport.consume(alone, second.append, prefetch=10)
    await transport.publish([out(b"1", "alone"), out(b"2", "alone"), out(b"3", "alone")])
    assert second == []

    await subscription.cancel()
    await turn()

    assert ([each.body for each in first], [each.body for each in second]) == ([b"1"], [b"2", b"3"])


@on_loop
async def test_settling_twice_does_nothing(house: House) -> None:
    transport = await house.transport()
    got: list[Delivery] = []
    await transport.consume(QUEUE, got.append, prefetch=1)
    await transport.publish([out(b"1"), out(b"2"), out(b"3")])

    got[0].ack()
    got[0].requeue()
    got[0].dead_letter()
    await turn()

    assert [each.body for each in got] == [b"1", b"2"]
    assert await transport.depth("dead") == 0


@on_loop
async def test_a_message_is_handed_out_one_time_more_than_the_limit_then_dead_lettered(house: House) -> None:
    transport = await house.transport()
    counts: list[int] = []

    def requeue(delivery: Delivery) -> None:
        counts.append(delivery.delivery_count)
        delivery.requeue()

    await transport.consume(QUEUE, requeue, prefetch=1)
    await transport.publish([out(b"poison")])
    await turn(200)

    assert counts == list(range(51))
    assert await transport.depth("dead") == 1


@on_loop
async def test_a_consumer_that_raises_gets_the_message_again_and_its_neighbours_nothing_less(house: House) -> None:
    transport = await house.transport()
    got: list[bytes] = []

    def receive(delivery: Delivery) -> None:
        got.append(delivery.body)
        if delivery.delivery_count == 0 and delivery.body == b"bad":
            raise RuntimeError
        delivery.ack()

    await transport.consume(QUEUE, receive, prefetch=10)
    await transport.publish([out(b"bad"), out(b"good")])
    await turn()

    assert got == [b"bad", b"good", b"bad"]


@on_loop
async def test_a_handler_that_changes_headers_changes_its_own(house: House) -> None:
    transport = await house.transport()
    other = Queue("other", bindings=(Binding("x", "#"),))
    await transport.declare(Topology((), (other,)))
    got: list[Delivery] = []
    sent = out(b"1")

    def receive(delivery: Delivery) -> None:
        got.append(delivery)
        delivery.properties.headers["key"] = "changed"
        if delivery.delivery_count == 0:
            delivery.requeue()

    await transport.consume(QUEUE, receive, prefetch=10)
    await transport.publish([sent])
    await turn()
    assert [each.delivery_count for each in got] == [0, 1]

    await transport.consume(other, lambda delivery: keys.append(delivery.properties.headers["key"]), prefetch=1)
    keys: list[str] = []
    await turn()

    assert keys == ["k"]
    assert sent.properties.headers == {"key": "k"}


@on_loop
async def test_expired_messages_are_neither_counted_nor_delivered_but_dead_lettered(house: House) -> None:
    transport = await house.transport()
    await transport.publish([out(b"stays"), out(b"goes", expiration="1000"), out(b"later", expiration="5000")])
    await house.clock.advance(1.0)

    assert await transport.depth("q") == 2
    await turn()
    dead: list[Delivery] = []
    await transport.consume(DEAD, dead.append, prefetch=10)
    await house.clock.advance(4.0)
    got: list[Delivery] = []
    await transport.consume(QUEUE, got.append, prefetch=10)
    await turn()

    assert [each.body for each in got] == [b"stays"]
    assert [each.body for each in dead] == [b"goes", b"later"]
    assert {(each.routing_key, each.properties.expiration) for each in dead} == {("dead", None)}


@on_loop
async def test_a_dead_letter_with_nowhere_to_go_waits_until_there_is(house: House) -> None:
    transport = await house.transport()
    lost = Queue("lost", bindings=(Binding("x", "lost"),), dead_letter=Binding("late", "k"))
    await transport.declare(Topology((), (lost,)))
    await transport.consume(lost, lambda delivery: delivery.dead_letter(), prefetch=1)
    await transport.publish([out(b"1", "lost")])
    await turn()

    late = Queue("late.q", bindings=(Binding("late", "k"),))
    await transport.declare(Topology((Exchange("late", "direct"),), (late,)))
    await turn()

    assert await transport.depth("late.q") == 1


@on_loop
async def test_an_exclusive_queue_refuses_a_second_consumer_and_goes_with_the_first(house: House) -> None:
    first, second = await house.transport(), await house.transport()
    got: list[Delivery] = []
    subscription = await first.consume(REPLIES, got.append, prefetch=1)
    with pytest.raises(BrokerUnavailable, match="another consumer"):
        await second.consume(REPLIES, got.append, prefetch=1)

    assert await second.publish([out(b"1", "reply.1"), out(b"2", "reply.1")]) == [Confirmed()] * 2
    assert [each.body for each in got] == [b"1", b"2"]  # without acks

    await subscription.cancel()
    assert await second.publish([out(b"3", "reply.1")]) == [Returned("NO_ROUTE")]
    assert await second.depth("reply.1") is None
    await second.consume(REPLIES, got.append, prefetch=1)
    await second.close()
    assert await first.depth("reply.1") is None


@on_loop
async def test_topology_that_differs_or_is_missing_is_named(house: House) -> None:
    transport = await house.transport()

    with pytest.raises(TopologyMismatch, match="'x' is topic, not fanout"):
        await transport.declare(Topology((Exchange("x", "fanout"),)))
    with pytest.raises(TopologyMismatch, match="queue 'q'"):
        await transport.declare(Topology((Exchange("new", "topic"),), (Queue("q"),)))
    with pytest.raises(TopologyMissing, match="'new'"):
        await transport.verify(Topology((EXCHANGE, Exchange("new", "topic"))))
    with pytest.raises(TopologyMissing, match="'nowhere'"):
        await transport.declare(Topology((), (Queue("z", bindings=(Binding("nowhere", "k"),)),)))
    with pytest.raises(TopologyMissing, match="'z'"):
        await transport.verify(Topology((EXCHANGE,), (QUEUE, Queue("z"))))
    for ask in (transport.consume(Queue("z"), lambda _: None, prefetch=1), transport.purge("z")):
        with pytest.raises(TopologyMissing, match="'z'"):
            await ask
    await transport.verify(Topology((EXCHANGE,), (QUEUE, DEAD, REPLIES)))


@on_loop
async def test_a_batch_larger_than_the_window_keeps_its_order(house: House) -> None:
    transport = await house.transport()
    count = 2 * WINDOW + 1
    assert len(await transport.publish([out(str(number).encode()) for number in range(count)])) == count

    got: list[bytes] = []
    await transport.consume(QUEUE, lambda delivery: got.append(delivery.body), prefetch=65_535)
    await turn()

    assert got == [str(number).encode() for number in range(count)]


@on_loop
async def test_a_purge_drops_what_is_ready_and_leaves_what_was_delivered(house: House) -> None:
    transport = await house.transport()
    got: list[Delivery] = []
    await transport.consume(QUEUE, got.append, prefetch=1)
    await transport.publish([out(b"1"), out(b"2"), out(b"3")])

    await transport.purge("q")
    got[0].requeue()
    await turn()

    assert [each.body for each in got] == [b"1", b"1"]


@on_loop
async def test_a_closed_transport_is_disconnected_and_says_so(house: House) -> None:
    transport = await house.transport()
    pending = asyncio.ensure_future(transport.publish([out()]))
    await asyncio.sleep(0)
    await transport.close()
    await transport.close()

    assert await pending == [Confirmed()]
    assert transport.state == "disconnected"
    with pytest.raises(BrokerUnavailable):
        await transport.publish([out()])


def test_a_journaled_broker_that_was_closed_gives_back_everything_unsettled_in_order(tmp_path: Path) -> None:
    async def first() -> None:
        transport = EmbeddedTransport(tmp_path / "b.db", clock=SystemClock())
        await transport.open()
        await transport.declare(Topology((EXCHANGE,), (QUEUE, DEAD)))
        got: list[Delivery] = []
        await transport.consume(QUEUE, got.append, prefetch=3)
        transient = Outgoing("x", "n.1", Properties(), b"gone", persistent=False)
        await transport.publish([*(out(str(number).encode()) for number in range(5)), transient])
        got[1].ack()
        got[2].dead_letter()
        await transport.close()

    async def second() -> tuple[list[tuple[bytes, int]], int | None]:
        transport = EmbeddedTransport(tmp_path / "b.db", clock=SystemClock())
        await transport.open()
        got: list[Delivery] = []
        await transport.consume(QUEUE, got.append, prefetch=10)
        await turn()
        depth = await transport.depth("dead")
        await transport.close()
        return [(each.body, each.delivery_count) for each in got], depth

    asyncio.run(first())
    assert asyncio.run(second()) == ([(b"0", 1), (b"3", 0), (b"4", 0)], 1)
    assert asyncio.run(second()) == ([(b"0", 2), (b"3", 1), (b"4", 1)], 1)
