"""A delivery: a view of its copy that settles through its channel, while that has it."""

from __future__ import annotations

import pytest

from eventplat.broker.embedded_delivery import EmbeddedDelivery
from eventplat.broker.embedded_queue import Copy, Message, QueueState
from eventplat.broker.topology import Queue
from eventplat.messages.codec import Properties


class Channel:
    def __init__(self) -> None:
        self.unacked: set[int] = set()
        self.settled: list[tuple[int, str]] = []

    def next_tag(self) -> int:
        tag = 7 + len(self.unacked)
        self.unacked.add(tag)
        return tag

    def has(self, tag: int) -> bool:
        return tag in self.unacked

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None:
        self._settle(delivery_tag, "ack")

    def basic_reject(self, delivery_tag: int, requeue: bool = False) -> None:
        self._settle(delivery_tag, "requeue" if requeue else "dead_letter")

    def _settle(self, tag: int, how: str) -> None:
        self.unacked.remove(tag)
        self.settled.append((tag, how))


def deliver(channel: Channel, *, deliveries: int = 1) -> EmbeddedDelivery:
    message = Message("x", "a.b", Properties(message_id="1", headers={"key": "k", "path": ["a"]}), b"body", is_persistent=True)
    copy = Copy(1, QueueState(Queue("q")), message)
    copy.deliveries = deliveries
    return EmbeddedDelivery(copy, channel)


def test_it_shows_its_message_and_where_it_came_from() -> None:
    delivery = deliver(Channel())

    assert (delivery.queue, delivery.exchange, delivery.routing_key, delivery.body) == ("q", "x", "a.b", b"body")
    assert delivery.properties == Properties(message_id="1", headers={"key": "k", "path": ["a"]})


@pytest.mark.parametrize(("deliveries", "count", "redelivered"), [(1, 0, False), (2, 1, True), (51, 50, True)])
def test_it_counts_the_hand_outs_before_it(deliveries: int, count: int, redelivered: bool) -> None:
    delivery = deliver(Channel(), deliveries=deliveries)

    assert (delivery.delivery_count, delivery.redelivered) == (count, redelivered)


def test_its_count_stays_when_the_copy_is_handed_out_again() -> None:
    delivery = deliver(Channel())
    delivery.copy.deliveries += 1

    assert delivery.delivery_count == 0


def test_its_properties_are_its_own_and_stay_the_same() -> None:
    delivery = deliver(Channel())
    delivery.properties.headers["path"].append("b")

    assert delivery.properties.headers["path"] == ["a", "b"]
    assert delivery.copy.message.properties.headers["path"] == ["a"]


@pytest.mark.parametrize("first", ["ack", "requeue", "dead_letter"])
@pytest.mark.parametrize("second", ["ack", "requeue", "dead_letter"])
def test_only_the_first_settlement_counts(first: str, second: str) -> None:
    channel = Channel()
    delivery = deliver(channel)
    getattr(delivery, first)()
    getattr(delivery, second)()

    assert channel.settled == [(7, first)]


@pytest.mark.parametrize("settle", ["ack", "requeue", "dead_letter"])
def test_without_its_channel_settling_does_nothing(settle: str) -> None:
    channel = Channel()
    delivery = deliver(channel)
    channel.unacked.clear()
    getattr(delivery, settle)()

    assert channel.settled == []
