"""Random programs on both transports at once: what can be observed is the same, and what a model says.

Each rule does one thing on RabbitMQ and on the embedded broker and waits until both are at rest, which a model
of three queues says without a clock: how many deliveries every consumer has, how deep every queue is.
Then, after every step and at the end:

    outcomes     of every publish are the same
    deliveries   each consumer has as many as its prefetch and its queue allow; first hand-outs are in the order of publishing
    counts       a delivery says how often this message was handed out of this queue before
    depths       are those of the model
    the end      what every queue still holds, and nothing else anywhere

Which of several messages that came back is next is the broker's own affair, so a message is settled where both
transports have handed it to the same consumer.

Programs in CI: `EXAMPLES` of `STEPS`; for more, set EVENTPLAT_PROGRAMS to a number.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from eventplat.broker.topology import Binding, Exchange, Queue, Topology
from eventplat.broker.transport import Delivery, Outcome, Subscription, Transport
from tests.conformance.brokers import Broker, Corner, outgoing, until
from tests.conformance.conftest import EmbeddedBroker, RabbitBroker
from tests.servers import rabbitmq_url

EXAMPLES, STEPS = int(os.environ.get("EVENTPLAT_PROGRAMS", "20")), 25
FIRST, SECOND, DEAD = "first", "second", "dead"
QUEUES = (FIRST, SECOND, DEAD)
DIED_IN = "died-in-"
KEYS = (*QUEUES, "both", "both", "late", "nobody")
Settling = Literal["ack", "requeue", "dead_letter"]
WAYS: tuple[Settling, ...] = ("dead_letter", "requeue", "ack")


Copy = tuple[int, str]         # a message's number, and the queue it died in, if it did


def copy_of(delivery: Delivery) -> Copy:
    return int(delivery.body), delivery.routing_key.removeprefix(DIED_IN) if delivery.routing_key.startswith(DIED_IN) else ""


class Model:
    """What stands where, and how many of each queue's copies are with which consumer."""

    def __init__(self) -> None:
        self.bound: dict[str, set[str]] = {FIRST: {FIRST}, SECOND: {SECOND}, DEAD: {DEAD}, "both": {FIRST, SECOND}}
        self.live: dict[str, set[Copy]] = {queue: set() for queue in QUEUES}
        self.held: Counter[int] = Counter()                         # by consumer
        self.delivered: Counter[int] = Counter()                    # by consumer, ever
        self.consumers: dict[int, tuple[str, int]] = {}             # still there: queue and prefetch
        self.queue_of: dict[int, str] = {}                          # of every consumer that ever was

    def ready(self, queue: str) -> int:
        held = sum(count for consumer, count in self.held.items() if self.queue_of[consumer] == queue)
        return len(self.live[queue]) - held

    def hand_out(self) -> None:
        for consumer, (queue, prefetch) in self.consumers.items():
            taken = min(prefetch - self.held[consumer], self.ready(queue))
            self.held[consumer] += taken
            self.delivered[consumer] += taken


class Stage:
    """One broker, two transports on it, and everything that was handed out there."""

    def __init__(self, broker: Broker) -> None:
        self.corner = Corner(broker)
        self.transports: list[Transport] = []
        self.received: dict[int, list[Delivery]] = {}
        self.unsettled: dict[int, dict[Copy, Delivery]] = {}        # by consumer
        self.subscriptions: dict[int, Subscription] = {}
        self.first: dict[str, list[Copy]] = {queue: [] for queue in QUEUES}
        self.seen: Counter[tuple[str, Copy]] = Counter()
        self.failures: list[str] = []
        self.exchange = ""
        self.queues: dict[str, Queue] = {}

    async def open(self) -> None:
        await self.corner.open()
        self.transports = [self.corner.transport, await self.corner.another()]
        exchange = Exchange(self.corner.name("direct"), "direct")
        self.exchange = exchange.name
        keys = {FIRST: (FIRST, "both"), SECOND: (SECOND, "both"), DEAD: (DEAD, DIED_IN + FIRST, DIED_IN + SECOND)}
        self.queues = {
            name: Queue(
                f"{self.corner.prefix}.{name}", bindings=tuple(Binding(exchange.name, key) for key in keys[name]),
                dead_letter=None if name == DEAD else Binding(exchange.name, DIED_IN + name), single_active=name == SECOND,
            )
            for name in QUEUES
        }
        await self.corner.declare(Topology((exchange,), tuple(self.queues.values())))

    async def consume(self, consumer: int, party: int, queue: str, prefetch: int) -> None:
        received = self.received[consumer] = []
        unsettled = self.unsettled[consumer] = {}

        def receive(delivery: Delivery) -> None:
            copy = copy_of(delivery)
            if delivery.delivery_count not in (counts := self.counts(queue, copy)):
                self.failures.append(f"{copy} of {queue} came as {delivery.delivery_count}, which is none of {counts}")
            if not self.seen[queue, copy]:
                self.first[queue].append(copy)
            self.seen[queue, copy] += 1
            received.append(delivery)
            unsettled[copy] = delivery

        self.subscriptions[consumer] = await self.transports[party].consume(self.queues[queue], receive, prefetch=prefetch)

    def counts(self, queue: str, copy: Copy) -> range:
        """How often it may say that it was handed out: RabbitMQ 4 goes on with what it had counted in the queue in which it died."""
        here, (number, died_in) = self.seen[queue, copy], copy
        return range(here, here + 1 + (self.seen[died_in, (number, "")] if died_in and self.corner.kind == "rabbitmq" else 0))

    async def crash(self) -> None:
        await self.corner.crash()
        self.unsettled = {consumer: {} for consumer in self.unsettled}
        self.transports = [self.corner.transport, await self.corner.another()]

    async def restart(self, party: int, gone: list[int]) -> None:
        await self.transports[party].close()
        for consumer in gone:
            self.unsettled[consumer].clear()
        await self.transports[party].open()

    async def rest(self, model: Model) -> None:
        """Wait until the broker has done what the model says it will."""
        for consumer, count in model.delivered.items():
            await until(partial(self.delivered, consumer), count, f"deliveries of {model.queue_of[consumer]}")
        for name, queue in self.queues.items():
            await self.corner.until_depth(queue, model.ready(name))
        assert self.failures == []

    async def delivered(self, consumer: int) -> int:
        return len(self.received[consumer])

    async def leave(self, model: Model) -> dict[str, list[Copy]]:
        """What every queue holds once nobody holds any of it."""
        await self.corner.close()
        await self.corner.open()
        left: dict[str, list[Copy]] = {}
        for name, queue in self.queues.items():
            count = len(model.live[name])
            await self.corner.until_depth(queue, count)
            left[name] = sorted(map(copy_of, await self.corner.take(queue, count))) if count else []
        return left

    async def close(self) -> None:
        await self.corner.close()
        self.corner.broker.clean(self.corner.declared)


class Programs(RuleBasedStateMachine):
    """The same program on both."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.room = TemporaryDirectory()
        self.model, self.number, self.count = Model(), 0, 0
        self.party_of: dict[int, int] = {}
        self.has_gone_astray = False
        self.stages = [Stage(RabbitBroker(rabbitmq_url())), Stage(EmbeddedBroker(Path(self.room.name) / "broker.db"))]

    def on_both(self, act: Callable[[Stage], Awaitable[object]]) -> list[object]:
        async def both() -> list[object]:
            results = [await act(stage) for stage in self.stages]
            self.model.hand_out()
            for stage in self.stages:
                await stage.rest(self.model)
            return results

        return self.loop.run_until_complete(both())

    @initialize(prefetch=st.integers(1, 5))
    def open(self, prefetch: int) -> None:
        self.on_both(lambda stage: stage.open())
        self.publish(["both"] * 4, 0, mandatory=True)
        self.begin(FIRST, prefetch, 0)
        self.begin(SECOND, prefetch, 1)

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=2, max_size=6), party=st.integers(0, 1), mandatory=st.booleans())
    def publish(self, keys: list[str], party: int, mandatory: bool) -> None:
        numbers = range(self.number, self.number + len(keys))
        self.number = numbers.stop
        for number, key in zip(numbers, keys, strict=True):
            for queue in self.model.bound.get(key, ()):
                self.model.live[queue].add((number, ""))

        async def publish(stage: Stage) -> list[Outcome]:
            batch = [outgoing(stage.exchange, key, str(number), mandatory=mandatory) for number, key in zip(numbers, keys, strict=True)]
            return await stage.transports[party].publish(batch)

        rabbit, embedded = self.on_both(publish)
        assert rabbit == embedded

    @precondition(lambda self: not self.has_gone_astray)
    @rule(party=st.integers(0, 1))
    def publish_astray(self, party: int) -> None:
        self.has_gone_astray = True
        rabbit, embedded = self.on_both(lambda stage: stage.transports[party].publish([outgoing(stage.exchange + "-not", "k")]))
        assert [type(each) for each in rabbit] == [type(each) for each in embedded]  # type: ignore[attr-defined]

    @precondition(lambda self: self.unconsumed())
    @rule(data=st.data(), prefetch=st.integers(1, 5), party=st.integers(0, 1))
    def consume(self, data: st.DataObject, prefetch: int, party: int) -> None:
        self.begin(data.draw(st.sampled_from(self.unconsumed())), prefetch, party)

    def begin(self, queue: str, prefetch: int, party: int) -> None:
        self.count += 1
        consumer = self.count
        self.model.consumers[consumer], self.model.queue_of[consumer], self.party_of[consumer] = (queue, prefetch), queue, party
        self.on_both(lambda stage: stage.consume(consumer, party, queue, prefetch))

    @precondition(lambda self: self.model.consumers)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        consumer = data.draw(st.sampled_from(sorted(self.model.consumers)))
        del self.model.consumers[consumer]
        self.on_both(lambda stage: stage.subscriptions[consumer].cancel())

    @precondition(lambda self: self.settleable())
    @rule(data=st.data(), ways=st.lists(st.sampled_from(WAYS), min_size=1, max_size=5), twice=st.booleans())
    def settle(self, data: st.DataObject, ways: list[Settling], twice: bool) -> None:
        for how in ways:
            if settleable := self.settleable():
                consumer, copy = data.draw(st.sampled_from(settleable))
                self.settle_one(consumer, copy, how, twice=twice)

    def settle_one(self, consumer: int, copy: Copy, how: Settling, *, twice: bool) -> None:
        queue = self.model.queue_of[consumer]
        self.model.held[consumer] -= 1
        if how != "requeue":
            self.model.live[queue].discard(copy)
        if how == "dead_letter" and queue != DEAD:
            self.model.live[DEAD].add((copy[0], queue))

        async def settle(stage: Stage) -> None:
            delivery = stage.unsettled[consumer].pop(copy)
            getattr(delivery, how)()
            if twice:
                delivery.ack()

        self.on_both(settle)

    @precondition(lambda self: "late" not in self.model.bound)
    @rule(queue=st.sampled_from([FIRST, SECOND]), party=st.integers(0, 1))
    def bind(self, queue: str, party: int) -> None:
        self.model.bound.setdefault("late", set()).add(queue)

        async def bind(stage: Stage) -> None:
            old = stage.queues[queue]
            more = Queue(old.name, old.type, (Binding(stage.exchange, "late"),), old.single_active, old.dead_letter)
            await stage.transports[party].declare(Topology((), (more,)))

        self.on_both(bind)

    @precondition(lambda self: self.model.consumers)
    @rule(party=st.integers(0, 1))
    def restart(self, party: int) -> None:
        gone = [consumer for consumer, home in self.party_of.items() if home == party]
        self.forget(gone)
        self.on_both(lambda stage: stage.restart(party, gone))

    @precondition(lambda self: self.model.consumers)
    @rule()
    def crash(self) -> None:
        self.forget(list(self.party_of))
        self.on_both(lambda stage: stage.crash())

    @invariant()
    def first_hand_outs_are_in_order(self) -> None:
        for stage in self.stages:
            for queue in (FIRST, SECOND):
                assert stage.first[queue] == sorted(stage.first[queue])
        rabbit, embedded = self.stages
        assert rabbit.first == embedded.first

    def forget(self, consumers: list[int]) -> None:
        for consumer in consumers:
            self.model.consumers.pop(consumer, None)
            self.model.held[consumer] = 0
            self.party_of.pop(consumer, None)

    def unconsumed(self) -> list[str]:
        """Queues without a consumer: who of two gets a message is the broker's own affair."""
        return sorted(set(QUEUES) - {queue for queue, _ in self.model.consumers.values()})

    def settleable(self) -> list[tuple[int, Copy]]:
        """What the same consumer holds on both."""
        rabbit, embedded = ({(consumer, copy) for consumer, held in stage.unsettled.items() for copy in held} for stage in self.stages)
        return sorted(rabbit & embedded)

    def teardown(self) -> None:
        async def leave() -> list[dict[str, list[Copy]]]:
            try:
                return [await stage.leave(self.model) for stage in self.stages]
            finally:
                for stage in self.stages:
                    await stage.close()

        try:
            rabbit, embedded = self.loop.run_until_complete(leave())
            assert rabbit == embedded == {queue: sorted(numbers) for queue, numbers in self.model.live.items()}
        finally:
            self.loop.close()
            self.room.cleanup()


Programs.TestCase.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, derandomize="EVENTPLAT_PROGRAMS" not in os.environ,
    suppress_health_check=list(HealthCheck), print_blob=False,
)
TestPrograms = Programs.TestCase
