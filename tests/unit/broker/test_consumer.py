"""A consumer that is stopped: what it had in hand is settled or given back, nothing stays with a process that goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar

import pytest

from eventplat.broker.consumer import Consumer, one_by_one
from eventplat.broker.embedded import EmbeddedTransport
from eventplat.broker.embedded_broker import EmbeddedBroker
from eventplat.broker.topology import Binding, Exchange, Queue, Topology
from eventplat.broker.transport import Delivery, Outgoing
from eventplat.clock import SystemClock
from eventplat.messages.codec import Properties

QUEUE = Queue("q", bindings=(Binding("x", "k"),))


def played(process: Callable[[Delivery], Awaitable[None]], test: Callable[[EmbeddedTransport, Consumer], Awaitable[None]]) -> None:
    async def whole() -> None:
        transport = EmbeddedTransport(EmbeddedBroker(None, clock=SystemClock()), clock=SystemClock())
        await transport.open()
        await transport.declare(Topology((Exchange("x", "direct"),), (QUEUE,)))
        await transport.publish([Outgoing("x", "k", Properties(), b"%d" % number) for number in range(3)])
        consumer = Consumer(transport, QUEUE, one_by_one(process), prefetch=10, concurrency=1)
        await consumer.start()
        await test(transport, consumer)
        await transport.close()

    asyncio.run(whole())


async def taken(transport: EmbeddedTransport) -> list[tuple[bytes, int]]:
    """What the queue hands out now, and how often it had before."""
    found: list[tuple[bytes, int]] = []
    subscription = await transport.consume(QUEUE, lambda delivery: found.append((delivery.body, delivery.delivery_count)), prefetch=10)
    while len(found) < 3:
        await asyncio.sleep(0)
    await subscription.cancel()
    return found


def test_what_is_cut_off_and_what_has_not_begun_come_again_while_the_process_goes_on() -> None:
    began: list[bytes] = []

    async def process(delivery: Delivery) -> None:
        began.append(delivery.body)
        await asyncio.Event().wait()

    async def test(transport: EmbeddedTransport, consumer: Consumer) -> None:
        while not began:
            await asyncio.sleep(0)
        await consumer.stop(0)
        assert await taken(transport) == [(b"0", 1), (b"1", 1), (b"2", 1)]
        assert began == [b"0"]

    played(process, test)


def test_what_was_settled_before_it_was_cut_off_stays_settled() -> None:
    acked: list[bytes] = []

    async def process(delivery: Delivery) -> None:
        delivery.ack()
        acked.append(delivery.body)
        if len(acked) == 3:
            await asyncio.Event().wait()

    async def test(transport: EmbeddedTransport, consumer: Consumer) -> None:
        while len(acked) < 3:
            await asyncio.sleep(0)
        await consumer.stop(0)
        await asyncio.sleep(0)
        assert await transport.depth(QUEUE.name) == 0

    played(process, test)


def test_deliveries_of_one_key_run_one_after_the_other_and_other_keys_beside_them() -> None:
    together: list[set[str]] = []
    running: dict[str, bytes] = {}
    handled: list[bytes] = []

    async def process(delivery: Delivery) -> None:
        key = delivery.properties.headers["key"]
        assert key not in running, "two of one key at once"
        running[key] = delivery.body
        together.append(set(running))
        for _ in range(3):
            await asyncio.sleep(0)
        del running[key]
        handled.append(delivery.body)
        delivery.ack()

    async def whole() -> None:
        transport = EmbeddedTransport(EmbeddedBroker(None, clock=SystemClock()), clock=SystemClock())
        await transport.open()
        await transport.declare(Topology((Exchange("x", "direct"),), (QUEUE,)))
        keys = ["a", "a", "a", "b", "a", "c", "b", "c"]
        await transport.publish([
            Outgoing("x", "k", Properties(headers={"key": key}), b"%s%d" % (key.encode(), number)) for number, key in enumerate(keys)
        ])  # fmt: skip
        consumer = Consumer(
            transport, QUEUE, one_by_one(process), prefetch=10, concurrency=2, key_of=lambda delivery: delivery.properties.headers["key"]
        )
        await consumer.start()
        while len(handled) < len(keys):
            await asyncio.sleep(0)
        await consumer.stop()
        await transport.close()

    asyncio.run(whole())

    assert {"a", "b"} in together
    assert max(map(len, together)) == 2
    for key in (b"a", b"b", b"c"):
        of_key = [body for body in handled if body[:1] == key]
        assert of_key == sorted(of_key)


def test_a_batch_takes_all_that_wait_of_its_keys_and_none_of_a_running_batchs() -> None:
    running: set[str] = set()
    batches: list[list[bytes]] = []

    async def process(deliveries: Sequence[Delivery]) -> None:
        keys = {delivery.properties.headers["key"] for delivery in deliveries}
        assert not keys & running, "one key in two batches at once"
        running.update(keys)
        batches.append([delivery.body for delivery in deliveries])
        for _ in range(3):
            await asyncio.sleep(0)
        running.difference_update(keys)
        for delivery in deliveries:
            delivery.ack()

    async def whole() -> None:
        transport = EmbeddedTransport(EmbeddedBroker(None, clock=SystemClock()), clock=SystemClock())
        await transport.open()
        await transport.declare(Topology((Exchange("x", "direct"),), (QUEUE,)))
        keys = ["a", "a", "a", "a", "b", "a", "c", "b", "c"]
        await transport.publish([
            Outgoing("x", "k", Properties(headers={"key": key}), b"%s%d" % (key.encode(), number)) for number, key in enumerate(keys)
        ])  # fmt: skip
        consumer = Consumer(
            transport, QUEUE, process, prefetch=10, concurrency=2, batch=3, key_of=lambda delivery: delivery.properties.headers["key"]
        )
        await consumer.start()
        while sum(map(len, batches)) < len(keys):
            await asyncio.sleep(0)
        await consumer.stop()
        await transport.close()

    asyncio.run(whole())

    assert batches == [[b"a0", b"a1", b"a2"], [b"b4", b"c6", b"b7"], [b"a3", b"a5"], [b"c8"]]


def consumed(
    process: Callable[[Delivery], Awaitable[None]], bodies: Sequence[bytes], *, concurrency: int, until: Callable[[], bool]
) -> None:
    """Put `bodies` on the queue in one batch and consume until `until`."""

    async def whole() -> None:
        transport = EmbeddedTransport(EmbeddedBroker(None, clock=SystemClock()), clock=SystemClock())
        await transport.open()
        await transport.declare(Topology((Exchange("x", "direct"),), (QUEUE,)))
        await transport.publish([Outgoing("x", "k", Properties(), body) for body in bodies])
        consumer = Consumer(transport, QUEUE, one_by_one(process), prefetch=50, concurrency=concurrency)
        await consumer.start()
        async with asyncio.timeout(10):
            while not until():
                await asyncio.sleep(0)
        await consumer.stop()
        await transport.close()

    asyncio.run(whole())


class Odd:
    """Cannot be compared."""

    def __eq__(self, other: object) -> bool:
        raise TypeError

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("value", ["left behind", Odd()])
def test_what_a_handler_leaves_in_a_context_variable_is_not_the_next_ones(value: object) -> None:
    variable: ContextVar[object] = ContextVar("variable", default=None)
    outside = Odd()
    variable.set(outside)
    seen: list[bool] = []

    async def process(delivery: Delivery) -> None:
        seen.append(variable.get() is outside)
        if delivery.body != b"1":
            variable.set(value)
        delivery.ack()

    consumed(process, [b"0", b"1", b"2", b"3"], concurrency=1, until=lambda: len(seen) == 4)

    assert seen == [True] * 4


def test_a_handler_that_cancels_its_own_task_does_not_cancel_the_next_one() -> None:
    handled: list[bytes] = []

    async def process(delivery: Delivery) -> None:
        handled.append(delivery.body)
        delivery.ack()
        if delivery.body == b"0":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

    consumed(process, [b"0", b"1", b"2"], concurrency=1, until=lambda: len(handled) == 3)

    assert handled == [b"0", b"1", b"2"]


def test_what_never_waits_shares_a_task_and_what_waits_runs_side_by_side() -> None:
    tasks: set[object] = set()
    at_once: list[int] = []
    running = 0

    async def process(delivery: Delivery) -> None:
        nonlocal running
        tasks.add(asyncio.current_task())
        running += 1
        at_once.append(running)
        if delivery.body.startswith(b"slow"):
            for _ in range(20):
                await asyncio.sleep(0)
        running -= 1
        delivery.ack()

    consumed(process, [b"%d" % number for number in range(20)], concurrency=5, until=lambda: len(at_once) == 20)
    assert len(tasks) <= 2
    assert max(at_once) == 1

    at_once.clear()
    consumed(process, [b"slow%d" % number for number in range(20)], concurrency=5, until=lambda: len(at_once) == 20 and not running)
    assert max(at_once) == 5


def test_handlers_that_wait_begin_in_one_turn_of_the_loop() -> None:
    turn = 0
    began: list[int] = []
    is_over = False

    async def process(delivery: Delivery) -> None:
        began.append(turn)
        for _ in range(50):
            await asyncio.sleep(0)
        delivery.ack()

    async def count() -> None:
        nonlocal turn
        while not is_over:
            turn += 1
            await asyncio.sleep(0)

    async def whole() -> None:
        nonlocal is_over
        transport = EmbeddedTransport(EmbeddedBroker(None, clock=SystemClock()), clock=SystemClock())
        await transport.open()
        await transport.declare(Topology((Exchange("x", "direct"),), (QUEUE,)))
        consumer = Consumer(transport, QUEUE, one_by_one(process), prefetch=50, concurrency=10)
        await consumer.start()
        counting = asyncio.create_task(count())
        for handled in (10, 20):
            await transport.publish([Outgoing("x", "k", Properties(), b"1")] * 10)
            while len(began) < handled or consumer.in_flight:
                await asyncio.sleep(0)
        is_over = True
        await counting
        await consumer.stop()
        await transport.close()

    asyncio.run(whole())

    assert began[19] - began[10] <= 2, "the first ten have shown that they wait"
