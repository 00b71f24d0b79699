"""The embedded broker against a model of it: random work, faults of the disk and power cuts, and nothing is lost.

Two parties publish, consume, settle in every way, leave and come back, while commits fail now and then. At a random
moment the journal's files are copied as they are, which is what a killed process leaves, and the next party works
on the copy; the party itself lives on, and its broker's memory is held to the same. The model knows of every message where it may stand:

    confirmed, never settled    in its queue, once
    acked                       gone; or there once more after a kill, until a publish that began later was confirmed
    dead-lettered               in its queue or in the dead one, never in both
    not confirmed               once or not at all

First hand-outs of a queue are in the order of publishing; every hand-out knows how many came before it.
"""

from __future__ import annotations

import asyncio
import copy
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from eventplat import failpoints
from eventplat.broker.embedded import EmbeddedSubscription, EmbeddedTransport
from eventplat.broker.embedded_broker import EmbeddedBroker
from eventplat.broker.topology import Binding, Exchange, Queue, Topology
from eventplat.broker.transport import Confirmed, Delivery, Outgoing
from eventplat.errors import BrokerUnavailable
from eventplat.messages.codec import Properties
from eventplat.testing.virtual_clock import VirtualClock

QUEUE = Queue("q", bindings=(Binding("x", "q"), Binding("x", "all")), dead_letter=Binding("x", "dead.q"))
SINGLE = Queue("single", bindings=(Binding("x", "all"),), single_active=True, dead_letter=Binding("x", "dead.single"))
DEAD = Queue("dead", bindings=(Binding("x", "dead.#"),))
QUEUES = (QUEUE, SINGLE, DEAD)
TOPOLOGY = Topology((Exchange("x", "topic"),), QUEUES)
REACHES = {"q": (QUEUE.name,), "all": (QUEUE.name, SINGLE.name)}
EPOCHS, STEPS = 4, 80

Place = tuple[int, str]        # a message and the queue it was published to
Settling = Literal["ack", "requeue", "dead_letter"]


@dataclass
class Model:
    """What is known of each message; plain values, so that a kill can copy it."""

    sent: dict[int, str] = field(default_factory=dict)              # by number: the routing key
    confirmed: set[int] = field(default_factory=set)
    acked: set[tuple[Place, str]] = field(default_factory=set)      # and the queue it was acked in
    forgotten: set[tuple[Place, str]] = field(default_factory=set)  # acked before a publish that was confirmed
    seen: Counter[tuple[Place, str]] = field(default_factory=Counter)
    last: dict[str, int] = field(default_factory=dict)              # by queue: the newest that was handed out
    is_counted: bool = True                                         # no fault has kept a count off the disk

    def hand_out(self, delivery: Delivery) -> None:
        where = place_of(delivery), delivery.queue
        (number, _), _ = where
        assert number in self.sent
        assert where not in self.forgotten
        if self.is_counted:
            assert delivery.delivery_count == self.seen[where]
        assert delivery.redelivered == (delivery.delivery_count > 0)
        if not self.seen[where] and delivery.queue != DEAD.name:
            assert number > self.last.get(delivery.queue, -1)
            self.last[delivery.queue] = number
        self.seen[where] += 1


class Party:
    """One process's life: two transports on one broker."""

    def __init__(self, model: Model, path: Path, chance: random.Random, first: int, *, has_faults: bool) -> None:
        self.model, self.chance, self.number, self.has_faults = model, chance, first, has_faults
        self.path, self.clock = path, VirtualClock()
        self.broker = EmbeddedBroker(path, clock=self.clock)
        self.transports = [EmbeddedTransport(self.broker, clock=self.clock) for _ in range(2)]
        self.subscriptions: list[tuple[EmbeddedTransport, EmbeddedSubscription]] = []
        self.held: list[Delivery] = []
        self.acked: set[tuple[Place, str]] = set()   # in this life: a kill may undo the last of them
        self.publishing: set[asyncio.Task[None]] = set()
        self.failures: list[BaseException] = []

    async def live(self, killed: Path) -> Model:
        """Work, and be killed at some step: what the disk held then is in `killed`, what was known is returned."""
        for transport in self.transports:
            await transport.open()
            await transport.declare(TOPOLOGY)
        death, left = self.chance.randrange(STEPS // 2, STEPS), self.model
        for step in range(STEPS):
            if step == death:
                shutil.copytree(self.path.parent, killed)
                left = copy.deepcopy(self.model)
            await self.step()
        failpoints.arm("")
        await asyncio.gather(*self.publishing)
        await self.survive()
        if self.failures:
            raise self.failures[0]
        return left

    async def survive(self) -> None:
        """Without a kill, and without a reload that would mend it: everything stands in the memory of the broker."""
        for transport in self.transports:  # one after the other: the broker stays open
            await transport.close()
            await transport.open()
        await self.publish("q", 1)         # a commit that succeeds, with all that waited for one
        await asyncio.sleep(0)
        check(self.model, await drain(self.transports[0]))
        for transport in self.transports:
            await transport.close()

    async def step(self) -> None:
        roll = self.chance.random()
        if roll < 0.4:
            task = asyncio.create_task(self.publish(self.chance.choice(["q", "all"]), self.chance.randrange(1, 5)))
            self.publishing.add(task)
            task.add_done_callback(self.publishing.discard)
        elif roll < 0.6:
            self.settle()
        elif roll < 0.7:
            await self.consume()
        elif roll < 0.76 and self.subscriptions:
            _, subscription = self.subscriptions.pop(self.chance.randrange(len(self.subscriptions)))
            await subscription.cancel()
        elif roll < 0.8:
            await self.come_back(self.chance.choice(self.transports))
        elif roll < 0.86 and self.has_faults:
            failpoints.arm(self.chance.choice(["embedded.before_journal=raise", "embedded.after_journal=raise"]))
            self.model.is_counted = False
        for _ in range(self.chance.randrange(4)):
            await asyncio.sleep(0)

    async def publish(self, key: str, count: int) -> None:
        batch = range(self.number, self.number + count)
        self.number = batch.stop
        self.model.sent |= dict.fromkeys(batch, key)
        acked = set(self.acked)
        try:
            outcomes = await self.transports[0].publish([out(number, key) for number in batch])
        except BrokerUnavailable:
            return
        assert outcomes == [Confirmed()] * count
        self.model.confirmed |= set(batch)
        self.model.forgotten |= acked

    async def consume(self) -> None:
        transport, queue = self.chance.choice(self.transports), self.chance.choice(QUEUES)
        subscription = await transport.consume(queue, self.receive, prefetch=self.chance.randrange(1, 8))
        self.subscriptions.append((transport, subscription))

    async def come_back(self, transport: EmbeddedTransport) -> None:
        if transport is self.transports[0] and self.publishing:
            return  # its publishes would fail by right
        self.subscriptions = [pair for pair in self.subscriptions if pair[0] is not transport]
        await transport.close()
        await transport.open()

    def receive(self, delivery: Delivery) -> None:
        try:
            self.model.hand_out(delivery)
        except BaseException as failure:  # the broker would take it for a consumer's bug
            self.failures.append(failure)
        self.held.append(delivery)
        if self.chance.random() < 0.3:
            self.settle()

    def settle(self) -> None:
        """Settle something that was received, sometimes twice, sometimes after its transport has gone."""
        if not self.held:
            return
        delivery = self.held[self.chance.randrange(len(self.held))]
        kinds: list[Settling] = ["ack", "ack", "requeue", "dead_letter"]
        kind = self.chance.choice(kinds)
        channel = delivery._channel  # type: ignore[attr-defined]  # whether it will count
        counts = channel.has(delivery.delivery_tag)  # type: ignore[attr-defined]
        getattr(delivery, kind)()
        if counts and (kind == "ack" or (kind == "dead_letter" and delivery.queue == DEAD.name)):
            self.acked.add((place_of(delivery), delivery.queue))
            self.model.acked.add((place_of(delivery), delivery.queue))


def place_of(delivery: Delivery) -> Place:
    """Also of a dead one: its routing key names the queue it comes from."""
    return int(delivery.body), delivery.routing_key.removeprefix("dead.") if delivery.queue == DEAD.name else delivery.queue


def out(number: int, key: str) -> Outgoing:
    return Outgoing("x", key, Properties(message_id=str(number)), str(number).encode())


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


@pytest.mark.parametrize("has_faults", [False, True], ids=["sound", "faulty"])
@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_lost_doubled_or_out_of_order(tmp_path: Path, seed: int, has_faults: bool) -> None:
    chance, model = random.Random(seed), Model()
    for epoch in range(EPOCHS):
        path = tmp_path / str(epoch) / "b.db"
        party = Party(model, path, chance, epoch * 10_000, has_faults=has_faults)
        model = asyncio.run(party.live(tmp_path / str(epoch + 1)))

    assert len(model.confirmed) > EPOCHS * 5
    assert model.acked
    check(model, asyncio.run(reload(tmp_path / str(EPOCHS) / "b.db")))


def check(model: Model, left: dict[str, list[Place]]) -> None:
    for queue in (QUEUE.name, SINGLE.name):
        numbers = [number for number, _ in left[queue]]
        assert numbers == sorted(set(numbers))
    for place, queue in model.forgotten:
        assert place not in left[queue]
    stands = Counter(place for places in left.values() for place in places)
    acked = {place for place, _ in model.acked}
    published = {(number, home) for number, key in model.sent.items() for home in REACHES[key]}
    assert set(stands) <= published
    assert set(stands.values()) == {1}
    assert {place for place in published - acked if place[0] in model.confirmed} <= set(stands)


async def reload(path: Path) -> dict[str, list[Place]]:
    """What a journal holds."""
    transport = EmbeddedTransport(path, clock=VirtualClock())
    await transport.open()
    left = await drain(transport)
    await transport.close()
    return left


async def drain(transport: EmbeddedTransport) -> dict[str, list[Place]]:
    """Every message that is left, by queue, in order."""
    left: dict[str, list[Place]] = {queue.name: [] for queue in QUEUES}
    for queue in QUEUES:
        depth = await transport.depth(queue.name)
        await transport.consume(queue, lambda delivery: left[delivery.queue].append(place_of(delivery)), prefetch=65_535)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(left[queue.name]) == depth
    return left
