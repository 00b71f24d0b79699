"""What kombu routes, and what had to be changed for it to be AMQP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventplat.broker.embedded_kombu import ROUTES_MAX, AmqpTopicExchange, EmbeddedChannel, Held, Publication
from eventplat.broker.embedded_queue import Message, QueueState
from eventplat.broker.embedded_turn import Turns
from eventplat.broker.topology import Binding, Exchange, Queue
from eventplat.clock import SystemClock
from eventplat.messages.codec import Properties

TOPIC = AmqpTopicExchange(None)  # type: ignore[no-untyped-call]
words = st.lists(st.sampled_from(["a", "b", "", "x+"]), max_size=4)
patterns = st.lists(st.sampled_from(["a", "b", "*", "#", "x+"]), max_size=4)


def matches(pattern: str, key: str) -> bool:
    return TOPIC._match(TOPIC.key_to_pattern(pattern), key) is not None


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        ("order.#", "order", True), ("order.#", "order.placed.v1", True), ("order.#", "orders", False),
        ("#.done", "done", True), ("#.done", "a.b.done", True), ("#.done", "undone", False),
        ("a.#.c", "a.c", True), ("a.#.c", "a.b.b.c", True), ("a.#.c", "a.c.d", False),
        ("a.*.c", "a.b.c", True), ("a.*.c", "a.b.b.c", False), ("a.*.c", "a.c", False), ("a.*", "a.b", True), ("a.*", "a", False),
        ("#", "", True), ("#", "a.b", True), ("*", "", False), ("*", "a", True), ("*.*", "a", False),
        ("a.b", "a.b", True), ("a.b", "axb", False), ("a+", "aa", False), ("a", "a\n", False),
    ],
)  # fmt: skip
def test_a_star_is_one_word_and_a_hash_any_number(pattern: str, key: str, expected: bool) -> None:
    assert matches(pattern, key) is expected


@given(patterns, words)
def test_topics_match_as_the_definition_says(pattern: list[str], key: list[str]) -> None:
    key = key if key != [""] else []  # the empty key has no words

    assert matches(".".join(pattern), ".".join(key)) is by_definition(pattern, key)


def by_definition(pattern: Sequence[str], key: Sequence[str]) -> bool:
    if not pattern:
        return not key
    head, rest = pattern[0], pattern[1:]
    if head == "#":
        return any(by_definition(rest, key[skipped:]) for skipped in range(len(key) + 1))
    return bool(key) and head in ("*", key[0]) and by_definition(rest, key[1:])


def routed(channel: EmbeddedChannel, exchange: str, key: str) -> list[str]:
    reached: list[str] = []
    message = Message(exchange, key, Properties(), b"", is_persistent=False)
    channel.publish(Publication(message, lambda _, queue: reached.append(queue.name)))
    return reached


def with_channel(test: Callable[[EmbeddedChannel], None]) -> Callable[[], None]:
    def run() -> None:
        async def on_loop() -> None:
            turns = Turns(Held(), SystemClock(), None)
            for exchange in (Exchange("t", "topic"), Exchange("d", "direct"), Exchange("f", "fanout")):
                turns.router.declare_exchange(exchange)
            test(turns.router)
            turns.close()

        asyncio.run(on_loop())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def declare(channel: EmbeddedChannel, name: str, *bindings: tuple[str, str]) -> None:
    channel.declare_queue(QueueState(Queue(name, "classic", tuple(Binding(*binding) for binding in bindings))))


@with_channel
def test_each_exchange_type_reaches_each_queue_once(channel: EmbeddedChannel) -> None:
    declare(channel, "b", ("t", "a.*"), ("t", "a.#"), ("d", "k"), ("f", ""))
    declare(channel, "a", ("t", "#"), ("d", "other"), ("f", "ignored"))

    assert routed(channel, "t", "a.x") == ["a", "b"]
    assert routed(channel, "d", "k") == ["b"]
    assert routed(channel, "f", "whatever") == ["a", "b"]
    assert routed(channel, "", "a") == ["a"]
    assert routed(channel, "", "nobody") == []


@with_channel
def test_a_new_binding_counts_at_once(channel: EmbeddedChannel) -> None:
    declare(channel, "a", ("t", "a"))
    assert routed(channel, "t", "b") == []

    declare(channel, "a", ("t", "b"))

    assert routed(channel, "t", "b") == ["a"]


@with_channel
def test_a_deleted_queue_leaves_the_exchange(channel: EmbeddedChannel) -> None:
    declare(channel, "a", ("t", "k"), ("f", ""))
    assert routed(channel, "t", "k") == ["a"]

    channel.queue_delete("a")

    assert routed(channel, "t", "k") == routed(channel, "f", "k") == []
    assert [channel.state.exchanges[name]["table"] for name in ("t", "f")] == [[], []]
    declare(channel, "a")
    assert routed(channel, "t", "k") == []


@with_channel
def test_remembered_routes_are_bounded(channel: EmbeddedChannel) -> None:
    declare(channel, "a", ("t", "#"))
    for number in range(ROUTES_MAX + 10):
        routed(channel, "t", str(number))

    assert 0 < len(channel.desk.routes) <= ROUTES_MAX
