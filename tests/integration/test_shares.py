"""Instances of one handler that are not equally fast: each takes as much as it can do."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from functools import partial

import pytest

from eventplat.broker.consumer import Consumer, one_by_one
from eventplat.broker.rabbitmq import RabbitTransport
from eventplat.broker.topology import Binding, Exchange, Queue, Topology
from eventplat.broker.transport import Delivery
from eventplat.clock import SystemClock
from eventplat.settings import Settings
from tests.conformance.brokers import outgoing

HANDLING_S = {"fast": 0.02, "slower": 0.04, "slowest": 0.08}
MESSAGES = 400
TAIL_S = 1.0           # the slowest may have this much left to do when another has nothing


async def _shares(url: str) -> tuple[Counter[str], dict[str, float], float]:
    """How many each has handled, in how many seconds, and how long the last went on after the first had nothing to do."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    topology = Topology((Exchange(name, "direct"),), (queue := Queue(name, bindings=(Binding(name, "k"),)),))
    transports = {who: RabbitTransport(url, name=who, clock=SystemClock()) for who in HANDLING_S}
    handled: Counter[str] = Counter()
    took = dict.fromkeys(HANDLING_S, 0.0)
    ended: dict[str, float] = {}
    all_done = asyncio.Event()

    async def handle(who: str, delivery: Delivery) -> None:
        began = time.monotonic()
        await asyncio.sleep(HANDLING_S[who])
        delivery.ack()
        took[who] += time.monotonic() - began
        handled[who] += 1
        ended[who] = time.monotonic()
        if handled.total() == MESSAGES:
            all_done.set()

    for transport in transports.values():
        await transport.open()
    first = transports["fast"]
    try:
        await first.declare(topology)
        await first.publish([outgoing(name, "k") for _ in range(MESSAGES)], timeout_s=30)
        consumers = [
            Consumer(transport, queue, one_by_one(partial(handle, who)), prefetch=Settings().prefetch, concurrency=1, clock=SystemClock())
            for who, transport in transports.items()
        ]
        await asyncio.gather(*(consumer.start() for consumer in consumers))
        await asyncio.wait_for(all_done.wait(), 60)
        return handled, took, max(ended.values()) - min(ended.values())
    finally:
        for transport in transports.values():
            await transport.close()


@pytest.mark.timeout(100)
def test_three_unequal_instances_take_shares_as_their_speeds(amqp_url: str) -> None:
    handled, took, tail_s = asyncio.run(_shares(amqp_url))

    speed = {who: handled[who] / took[who] for who in handled}      # as it was: a busy machine makes all of them slower
    share = {who: handled[who] / MESSAGES for who in handled}
    assert share == {who: pytest.approx(each / sum(speed.values()), rel=0.2) for who, each in speed.items()}
    assert tail_s < TAIL_S
