"""The connection on both transports: open, closed, opened again, and what stays meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from eventplat.broker.topology import Binding, Queue, Topology
from eventplat.broker.transport import Confirmed, Outgoing, Transport
from eventplat.errors import BrokerUnavailable
from eventplat.messages.codec import Properties
from tests.conformance.brokers import Broker, Corner, Received, ack, bodies, conformance, numbered, outgoing

MESSAGE = Outgoing("x", "k", Properties(), b"")
CALLS: dict[str, Callable[[Transport], Awaitable[object]]] = {
    "publish": lambda transport: transport.publish([MESSAGE]),
    "publish nothing": lambda transport: transport.publish([]),
    "consume": lambda transport: transport.consume(Queue("q"), Received(), prefetch=1),
    "consume exclusively": lambda transport: transport.consume(Queue("q", "exclusive"), Received(), prefetch=1),
    "declare": lambda transport: transport.declare(Topology((), (Queue("q"),))),
    "verify": lambda transport: transport.verify(Topology((), (Queue("q"),))),
    "depth": lambda transport: transport.depth("q"),
    "purge": lambda transport: transport.purge("q"),
}


@conformance
async def test_an_open_transport_is_connected(corner: Corner) -> None:
    assert corner.transport.state == "connected"


@pytest.mark.parametrize("call", CALLS)
def test_a_transport_that_was_not_opened_says_so(broker: Broker, call: str) -> None:
    async def ask() -> None:
        transport = broker.transport()
        assert transport.state == "disconnected"
        async with asyncio.timeout(2):
            await CALLS[call](transport)

    with pytest.raises(BrokerUnavailable):
        asyncio.run(ask())


@pytest.mark.parametrize("call", CALLS)
@conformance
async def test_a_closed_transport_says_so(corner: Corner, call: str) -> None:
    await corner.transport.close()

    assert corner.transport.state == "disconnected"
    with pytest.raises(BrokerUnavailable):
        async with asyncio.timeout(2):
            await CALLS[call](corner.transport)


@conformance
async def test_closing_twice_is_closing_once(corner: Corner) -> None:
    await corner.transport.close()
    await corner.transport.close()


def test_closing_what_was_not_opened_is_nothing(broker: Broker) -> None:
    asyncio.run(broker.transport().close())


@conformance
async def test_a_closed_transport_can_be_opened_again(corner: Corner) -> None:
    queue, write = await corner.direct()
    for number in range(3):
        await corner.transport.close()
        await corner.transport.open()
        assert corner.transport.state == "connected"
        assert await corner.publish(write(b"%d" % number)) == [Confirmed()]

    assert await corner.left_in(queue) == bodies(3)


@conformance
async def test_consumers_do_not_come_back_with_a_transport_that_was_closed(corner: Corner) -> None:
    queue, write = await corner.direct()
    received, subscription = await corner.consume(queue)
    await corner.transport.close()
    await corner.transport.open()

    await corner.publish(write(b"1"))

    await corner.until_depth(queue, 1)
    assert received.bodies == []
    assert not subscription.is_active


@pytest.mark.parametrize("crashes", [False, True], ids=["closes", "crashes"])
@pytest.mark.parametrize("kind", ["quorum", "classic"])
@conformance
async def test_persistent_messages_stay_in_their_order(corner: Corner, kind: str, crashes: bool) -> None:
    queue, write = await corner.direct(type=kind)
    await corner.transport.publish(numbered(write, 20))

    await (corner.crash() if crashes else corner.reopen())

    received, _ = await corner.consume(queue, ack)
    assert [each.body for each in await received.reach(20)] == bodies(20)
    assert not any(each.redelivered for each in received.deliveries)


@pytest.mark.parametrize("crashes", [False, True], ids=["closes", "crashes"])
@conformance
async def test_what_was_unsettled_comes_again_first_and_redelivered(corner: Corner, crashes: bool) -> None:
    queue, write = await corner.direct()
    await corner.transport.publish(numbered(write, 6))
    held, _ = await corner.consume(queue, prefetch=4)
    (await held.reach(4))[1].ack()
    await held.reach(5)

    await (corner.crash() if crashes else corner.reopen())

    received, _ = await corner.consume(queue)
    await received.reach(5)
    assert received.bodies == [b"0", b"2", b"3", b"4", b"5"]
    assert [each.redelivered for each in received.deliveries] == [True, True, True, True, False]
    assert received.counts == [1, 1, 1, 1, 0]


@conformance
async def test_each_life_counts(corner: Corner) -> None:
    queue, write = await corner.direct()
    await corner.publish(write(b"1"))
    counts = []
    for life in range(6):
        received, _ = await corner.consume(queue)
        counts += [each.delivery_count for each in await received.reach(1)]
        await (corner.crash() if life % 2 else corner.reopen())

    assert counts == [0, 1, 2, 3, 4, 5]


@conformance
async def test_what_was_dead_lettered_stays_dead(corner: Corner) -> None:
    exchange = await corner.exchange("direct")
    dead = await corner.queue(exchange, "dead")
    queue = await corner.queue(exchange, "k", dead_letter=Binding(exchange.name, "dead"))
    await corner.publish(outgoing(exchange, "k", b"1"))
    received, _ = await corner.consume(queue)
    (await received.reach(1))[0].dead_letter()
    await corner.until_depth(dead, 1)

    await corner.crash()

    await corner.until_depth(queue, 0)
    assert await corner.left_in(dead) == [b"1"]


@conformance
async def test_a_publish_that_a_close_overtakes_is_confirmed_or_unavailable(corner: Corner) -> None:
    queue, write = await corner.direct()
    publishing = asyncio.create_task(corner.transport.publish([write(b"1")]))
    await asyncio.sleep(0)
    await corner.transport.close()

    try:
        assert await publishing == [Confirmed()]
    except BrokerUnavailable:
        assert corner.kind == "rabbitmq"  # the broker had not answered

    await corner.transport.open()
    assert await corner.left_in(queue) in ([b"1"], [])


@conformance
async def test_many_transports_live_beside_each_other(corner: Corner) -> None:
    queue, write = await corner.direct()
    parties = [await corner.another() for _ in range(5)]

    await asyncio.gather(*(transport.publish([write(b"%d" % number)]) for number, transport in enumerate(parties)))
    for transport in parties:
        await transport.close()

    assert corner.transport.state == "connected"
    assert sorted(await corner.left_in(queue)) == bodies(5)


@conformance
async def test_a_transport_lives_on_many_loops_one_after_the_other(corner: Corner) -> None:
    queue, write = await corner.direct()

    def elsewhere() -> None:
        async def publish() -> None:
            transport = corner.broker.transport()
            await transport.open()
            assert await transport.publish([write(b"1")]) == [Confirmed()]
            await transport.close()

        asyncio.run(publish())

    await corner.transport.close()
    await asyncio.to_thread(elsewhere)
    await corner.transport.open()

    assert await corner.left_in(queue) == [b"1"]
