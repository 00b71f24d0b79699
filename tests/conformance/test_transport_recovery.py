"""What RabbitMQ can do to a connection that the embedded broker cannot, and that the transport comes back from each by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pika
import pytest
from prometheus_client import REGISTRY

from eventplat.broker.rabbitmq import RabbitTransport
from eventplat.broker.rabbitmq_consumer import RabbitSubscription
from eventplat.broker.topology import Binding, Queue
from eventplat.broker.transport import Confirmed, Nacked, Outcome, Subscription
from eventplat.clock import SystemClock
from eventplat.errors import BrokerUnavailable, TopologyMissing
from tests import servers
from tests.conformance.brokers import Broker, Corner, Received, ack, bodies, conformance, numbered, outgoing, until
from tests.conformance.conftest import RabbitBroker, sever


@pytest.fixture
def broker() -> Broker:
    """Comes back after the whole of each wait, so that a loss can be seen."""
    return RabbitBroker(servers.rabbitmq_url(), chance=lambda: 1.0)


@pytest.fixture
def operator() -> Iterator[Any]:
    """A channel of somebody else's."""
    connection = pika.BlockingConnection(pika.URLParameters(servers.rabbitmq_url()))
    yield connection.channel()
    connection.close()


def rabbit(corner: Corner) -> RabbitTransport:
    assert isinstance(corner.transport, RabbitTransport)
    return corner.transport


async def until_true(probe: Callable[[], bool], what: str) -> None:
    async def ask() -> bool:
        return probe()

    await until(ask, True, what)


async def until_active(subscription: Subscription, *, is_active: bool = True) -> None:
    await until_true(lambda: subscription.is_active == is_active, "whether it is active")


@conformance
async def test_a_consumer_of_a_queue_that_was_deleted_comes_back_with_the_queue(corner: Corner, operator: Any) -> None:
    exchange = await corner.exchange("direct")
    queue = await corner.queue(exchange, "k")
    received, subscription = await corner.consume(queue, ack)

    operator.queue_delete(queue.name)
    await until_active(subscription, is_active=False)
    await corner.transport.declare(corner.declared)
    await until_active(subscription)

    await corner.publish(outgoing(exchange, "k", b"1"))
    assert [each.body for each in await received.reach(1)] == [b"1"]


@conformance
async def test_a_consumer_whose_channel_the_broker_closed_comes_back(corner: Corner) -> None:
    queue, write = await corner.direct()
    received, subscription = await corner.consume(queue, prefetch=2)
    await corner.transport.publish(numbered(write, 2))
    (held, _) = await received.reach(2)
    assert isinstance(subscription, RabbitSubscription)
    assert subscription._attachment is not None

    subscription._attachment._channel.raw.basic_ack(99)  # unknown: 406
    await received.reach(4)

    held.ack()  # of the channel that is gone: would settle another's message
    assert [(each.body, each.delivery_count) for each in received.deliveries[2:]] == [(b"0", 1), (b"1", 1)]
    assert subscription.is_active


@pytest.mark.parametrize("which", ["_consuming", "_publishing"])
@conformance
async def test_a_cut_connection_comes_back_with_everything_on_it(corner: Corner, which: str) -> None:
    queue, write = await corner.direct()
    received, subscription = await corner.consume(queue, ack)
    link = getattr(corner.transport, which)
    before = link._connection

    sever(link)
    await until_true(lambda: link._connection is not None and link._connection is not before, "the new connection")
    await until_active(subscription)

    assert await corner.publish(write(b"1")) == [Confirmed()]
    assert [each.body for each in await received.reach(1)] == [b"1"]
    assert corner.transport.state == "connected"


@conformance
async def test_a_transport_that_lost_a_connection_says_so_until_it_is_back(corner: Corner) -> None:
    sever(rabbit(corner)._consuming)

    await until_true(lambda: corner.transport.state == "disconnected", "the loss")
    await until_true(lambda: corner.transport.state == "connected", "the return")


@conformance
async def test_an_exclusive_queue_is_declared_anew_under_its_name(corner: Corner) -> None:
    exchange = await corner.exchange("direct")
    queue = Queue(corner.name("replies"), "exclusive", (Binding(exchange.name, "r"),))
    received, subscription = await corner.consume(queue)
    for number in range(3):
        sever(rabbit(corner)._consuming)
        await until_active(subscription, is_active=False)
        await until_active(subscription)

        assert await corner.publish(outgoing(exchange, "r", str(number))) == [Confirmed()]
        await received.reach(number + 1)

    assert received.bodies == bodies(3)


@conformance
async def test_what_was_unsettled_at_a_cut_comes_again(corner: Corner) -> None:
    queue, write = await corner.direct()
    await corner.transport.publish(numbered(write, 3))
    received, _ = await corner.consume(queue)
    stale = list(await received.reach(3))

    sever(rabbit(corner)._consuming)
    await received.reach(6)
    for delivery in stale:
        delivery.ack()
    received[4].ack()
    await corner.reopen()

    await corner.until_depth(queue, 2)
    assert await corner.left_in(queue) == [b"0", b"2"]


@conformance
async def test_a_consumer_that_lost_its_queue_can_be_cancelled(corner: Corner, operator: Any) -> None:
    queue, _ = await corner.direct()
    _, subscription = await corner.consume(queue)
    operator.queue_delete(queue.name)
    await until_active(subscription, is_active=False)

    async with asyncio.timeout(5):
        await subscription.cancel()

    await corner.transport.declare(corner.declared)
    assert not subscription.is_active


@conformance
async def test_an_ack_in_the_first_moment_of_a_consumer_survives_the_close(corner: Corner) -> None:
    queue, write = await corner.direct()
    await corner.publish(write(b"1"))
    received, _ = await corner.consume(queue)
    await received.reach(1)

    sever(rabbit(corner)._consuming)
    (_, again) = await received.reach(2)
    again.ack()
    await corner.reopen()

    await corner.until_depth(queue, 0)
    await corner.publish(write(b"2"))
    assert await corner.left_in(queue) == [b"2"]


@conformance
async def test_a_publish_whose_connection_is_cut_is_unavailable_at_once(corner: Corner) -> None:
    _, write = await corner.direct()
    publishing = asyncio.create_task(corner.transport.publish(numbered(write, 500)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    sever(rabbit(corner)._publishing)

    with pytest.raises(BrokerUnavailable, match="connection was lost"):
        await publishing


@conformance
async def test_a_publish_made_while_the_connection_is_away_waits_for_it(corner: Corner) -> None:
    queue, write = await corner.direct()
    sever(rabbit(corner)._publishing)
    await until_true(lambda: corner.transport.state == "disconnected", "the loss")

    assert await corner.publish(write(b"1")) == [Confirmed()]

    assert await corner.left_in(queue) == [b"1"]


@conformance
async def test_nothing_confirmed_is_lost_over_five_cuts(corner: Corner) -> None:
    queue, write = await corner.direct()
    received, _ = await corner.consume(queue, ack)
    confirmed: set[bytes] = set()
    for number in range(5):
        batch = [b"%d/%d" % (number, each) for each in range(20)]
        publishing = asyncio.create_task(corner.transport.publish([write(body) for body in batch]))
        await asyncio.sleep(0)
        sever(rabbit(corner)._consuming)
        if number % 2:
            sever(rabbit(corner)._publishing)
        try:
            assert await publishing == [Confirmed()] * 20
            confirmed |= set(batch)
        except BrokerUnavailable:
            pass
        await until_true(lambda: corner.transport.state == "connected", "the return")

    await until_true(lambda: confirmed <= set(received.bodies), "what is missing")
    assert len(confirmed) >= 60


@conformance
async def test_a_full_queue_refuses(corner: Corner, operator: Any) -> None:
    name = corner.name("full")
    operator.queue_declare(name, durable=True, arguments={"x-max-length": 2, "x-overflow": "reject-publish"})

    outcomes = await corner.publish(*[outgoing("", name) for _ in range(5)])
    operator.queue_delete(name)

    assert [type(outcome) for outcome in outcomes] == [Confirmed, Confirmed, Nacked, Nacked, Nacked]


@conformance
async def test_a_close_fails_what_is_being_isolated(corner: Corner) -> None:
    _, write = await corner.direct()
    missing = corner.name("nowhere")
    batch = [write() if number % 2 else outgoing(f"{missing}.{number}", "k") for number in range(64)]
    publishing: asyncio.Task[list[Outcome]] = asyncio.create_task(corner.transport.publish(batch))
    await until_true(lambda: bool(rabbit(corner)._publisher._suspects), "a channel that was closed over a culprit")

    await corner.transport.close()

    with pytest.raises(BrokerUnavailable, match="was closed"):
        async with asyncio.timeout(2):
            await publishing
    await corner.transport.open()


@conformance
async def test_an_exchange_that_goes_refuses_and_that_comes_takes_again(corner: Corner, operator: Any) -> None:
    exchange = await corner.exchange("direct")
    await corner.queue(exchange, "k")
    operator.exchange_delete(exchange.name)
    (refused,) = await corner.publish(outgoing(exchange, "k"))

    await corner.transport.declare(corner.declared)

    assert isinstance(refused, Nacked)
    assert await corner.publish(outgoing(exchange, "k")) == [Confirmed()]


def test_a_broker_that_is_not_there_is_unavailable() -> None:
    (port,) = servers.free_ports(1)

    async def open_() -> None:
        await RabbitBroker(f"amqp://guest:guest@127.0.0.1:{port}/").transport(patience_s=0.3).open()

    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1"):
        asyncio.run(open_())


def test_a_wrong_password_is_said_at_once_and_not_shown() -> None:
    url = servers.rabbitmq_url().replace("guest:guest", "guest:tr0ub4dor")

    async def open_() -> None:
        async with asyncio.timeout(8):
            await RabbitBroker(url).transport(patience_s=60).open()

    with pytest.raises(BrokerUnavailable) as refused:
        asyncio.run(open_())
    assert "tr0ub4dor" not in str(refused.value)
    assert "ACCESS_REFUSED" in str(refused.value)


def test_the_second_of_two_urls_is_tried() -> None:
    (port,) = servers.free_ports(1)

    async def open_() -> str:
        transport = RabbitTransport([f"amqp://guest:guest@127.0.0.1:{port}/", servers.rabbitmq_url()], name="two", clock=SystemClock())
        await transport.open()
        state = transport.state
        await transport.close()
        return state

    assert asyncio.run(open_()) == "connected"


def test_connections_closed_by_the_operator_come_back(rabbitmq: servers.RabbitServer) -> None:
    async def live() -> list[bytes]:
        corner = Corner(RabbitBroker(rabbitmq.url))
        await corner.open()
        exchange = await corner.exchange("direct")
        queue = await corner.queue(exchange, "k")
        replies = Queue(corner.name("replies"), "exclusive", (Binding(exchange.name, "k"),))
        received, _ = await corner.consume(queue, ack)
        heard = Received()
        subscription = await corner.transport.consume(replies, heard, prefetch=1)

        await asyncio.to_thread(rabbitmq.ctl, "close_all_connections", "for a test")
        await until_true(lambda: corner.transport.state == "connected", "the return")
        await until_active(subscription)

        assert await corner.publish(outgoing(exchange, "k", b"1")) == [Confirmed()]
        await received.reach(1)
        await heard.reach(1)
        await corner.close()
        corner.broker.clean(corner.declared)
        return received.bodies + heard.bodies

    assert asyncio.run(live()) == [b"1", b"1"]


@conformance
async def test_asking_while_the_broker_is_away_ends(corner: Corner) -> None:
    queue, _ = await corner.direct()
    hurried = RabbitBroker(servers.rabbitmq_url()).transport(patience_s=0.3)
    await hurried.open()
    hurried._consuming._parameters[0].port = servers.free_ports(1)[0]  # where nobody is
    sever(hurried._consuming)
    await until_true(lambda: hurried.state == "disconnected", "the loss")

    questions: list[Callable[[], Awaitable[object]]] = [
        lambda: hurried.depth(queue.name), lambda: hurried.purge(queue.name),
        lambda: hurried.declare(corner.declared), lambda: hurried.verify(corner.declared),
    ]
    for ask in questions:
        with pytest.raises(BrokerUnavailable, match="not connected within"):
            async with asyncio.timeout(3):
                await ask()
    await hurried.close()


@conformance
async def test_a_queue_that_stays_away_leaves_the_other_consumers_alone(corner: Corner, operator: Any) -> None:
    gone, _ = await corner.direct()
    stays, write = await corner.direct()
    _, lost = await corner.consume(gone)
    received, _ = await corner.consume(stays, ack)
    operator.queue_delete(gone.name)
    await until_active(lost, is_active=False)

    await corner.transport.publish(numbered(write, 20))

    assert [each.body for each in await received.reach(20)] == bodies(20)
    with pytest.raises(TopologyMissing):
        await corner.transport.verify(corner.declared)


@conformance
async def test_a_consumer_that_the_broker_has_forgotten_is_noticed_and_taken_up_anew(corner: Corner, operator: Any) -> None:
    exchange = await corner.exchange("direct")
    queue = await corner.queue(exchange, "k")
    received, subscription = await corner.consume(queue, ack)
    assert isinstance(subscription, RabbitSubscription)
    watchdog = rabbit(corner)._watchdog
    attachment = subscription._attachment
    assert attachment is not None
    attachment._channel.raw.basic_cancel(attachment._tag)  # behind the back of everybody who would hear of it

    async def consumers() -> int:
        return int(operator.queue_declare(queue.name, passive=True).method.consumer_count)

    await until(consumers, 0, "consumers that the broker counts")
    assert subscription.is_active

    await watchdog.run_once()
    await watchdog.run_once()
    await until(consumers, 1, "consumers that the broker counts")
    await corner.transport.publish([outgoing(exchange, "k", b"1")])

    await received.reach(1)
    assert received.bodies == [b"1"]


@conformance
async def test_a_lost_connection_shows_before_it_is_back_and_is_counted(corner: Corner) -> None:
    transport = rabbit(corner)
    name = transport._consuming._name

    def lost() -> float:
        return REGISTRY.get_sample_value("eventplat_broker_links_lost_total", {"link": name}) or 0.0

    def is_up() -> float | None:
        return REGISTRY.get_sample_value("eventplat_broker_link_up", {"link": name})

    assert (transport.state, is_up()) == ("connected", 1.0)
    before = lost()

    sever(transport._consuming)
    await until_true(lambda: transport.state == "disconnected", "whether it shows")
    assert (lost(), is_up()) == (before + 1, 0.0)

    await until_true(lambda: transport.state == "connected", "whether it is back")
    assert is_up() == 1.0
