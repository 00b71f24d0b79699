"""Routing on both transports: which queues an exchange puts a message into."""

from __future__ import annotations

from typing import Literal

import pytest

from eventplat.broker.topology import Binding, Exchange, Queue, Topology
from eventplat.broker.transport import Confirmed, Outcome, Returned
from tests.conformance.brokers import Corner, conformance, outgoing

Kind = Literal["topic", "direct", "fanout"]
KINDS: tuple[Kind, ...] = ("topic", "direct", "fanout")
MATCHES: list[tuple[str, str, bool]] = [
    ("a.b.c", "a.b.c", True), ("a.b.c", "a.b", False), ("a.b.c", "a.b.c.d", False), ("a.b.c", "a.b.C", False),
    ("*", "a", True), ("*", "", False), ("*", "a.b", False), ("a.*", "a.b", True), ("a.*", "a", False), ("a.*", "a.b.c", False),
    ("*.b", "a.b", True), ("*.b", "b", False), ("a.*.c", "a.b.c", True), ("a.*.c", "a.c", False),
    ("*.*", "a.b", True), ("*.*", "a", False),
    ("#", "", True), ("#", "a", True), ("#", "a.b.c", True), ("a.#", "a", True), ("a.#", "a.b", True), ("a.#", "a.b.c.d", True),
    ("a.#", "ab", False), ("a.#", "b.a", False), ("#.c", "c", True), ("#.c", "a.b.c", True), ("#.c", "a.b.cc", False),
    ("a.#.c", "a.c", True), ("a.#.c", "a.b.c", True), ("a.#.c", "a.b.b.c", True), ("a.#.c", "a.b", False),
    ("#.b.#", "b", True), ("#.b.#", "a.b.c", True), ("#.b.#", "a.c", False), ("*.#", "a", True), ("*.#", "", False), ("#.*", "a.b", True),
    ("#.*", "", False), ("#.#", "", True),
    ("a.#.#", "a", True), ("*.#.*", "a", False), ("*.#.*", "a.b", True),
    ("", "", True), ("", "a", False), ("a", "", False),
    ("a..b", "a..b", True), ("a.*.b", "a..b", True), ("a.#.b", "a..b", True), ("a..b", "a.b", False),
    ("a.", "a.", True), ("a.*", "a.", True),
    (".a", ".a", True), (".", ".", True), ("*.*", ".", True),
    ("a+b", "a+b", True), ("a+b", "aab", False), ("a.b", "axb", False), ("a$", "a", False), ("(a", "(a", True), ("[a]", "a", False),
    ("a*", "ab", False), ("a*", "a*", True), ("a#.b", "a#.b", True), ("#a", "b.a", False), ("**", "a", False), ("##", "a", False),
    ("a\nb", "a\nb", True), ("*", "a\nb", True), ("a", "a\n", False),
    ("\N{SNOWMAN}.*", "\N{SNOWMAN}.x", True), ("é", "é", True),
]  # fmt: skip


def outcome_of(is_match: bool) -> list[Outcome]:
    return [Confirmed() if is_match else Returned("NO_ROUTE")]


@pytest.mark.parametrize(("pattern", "key", "is_match"), MATCHES, ids=[f"{pattern!r}-{key!r}" for pattern, key, _ in MATCHES])
@conformance
async def test_a_topic_exchange_matches_words(corner: Corner, pattern: str, key: str, is_match: bool) -> None:
    exchange = await corner.exchange("topic")
    await corner.queue(exchange, pattern, type="classic")

    assert await corner.publish(outgoing(exchange, key)) == outcome_of(is_match)


@pytest.mark.parametrize(
    ("bound", "key", "is_match"),
    [
        ("k", "k", True), ("k", "K", False), ("", "", True), ("", "k", False),
        ("#", "k", False), ("*", "k", False), ("#", "#", True), ("a.*", "a.b", False),
    ],
)
@conformance
async def test_a_direct_exchange_compares_keys(corner: Corner, bound: str, key: str, is_match: bool) -> None:
    exchange = await corner.exchange("direct")
    await corner.queue(exchange, bound, type="classic")

    assert await corner.publish(outgoing(exchange, key)) == outcome_of(is_match)


@pytest.mark.parametrize(("bound", "key"), [("", ""), ("", "any"), ("k", "other")])
@conformance
async def test_a_fanout_exchange_looks_at_no_key(corner: Corner, bound: str, key: str) -> None:
    exchange = await corner.exchange("fanout")
    queues = [await corner.queue(exchange, bound, type="classic") for _ in range(2)]

    assert await corner.publish(outgoing(exchange, key, b"1")) == [Confirmed()]

    assert [await corner.left_in(queue) for queue in queues] == [[b"1"], [b"1"]]


@pytest.mark.parametrize(
    ("kind", "keys"), [("topic", ["a.#", "a.*", "a.b", "#"]), ("direct", ["a.b", "a.b"]), ("fanout", ["x", "y", "z"])], ids=KINDS
)
@conformance
async def test_several_bindings_of_one_queue_bring_one_copy(corner: Corner, kind: Kind, keys: list[str]) -> None:
    exchange = await corner.exchange(kind)
    queue = await corner.queue(exchange, *keys)

    await corner.publish(outgoing(exchange, "a.b", b"1"), outgoing(exchange, "a.b", b"2"))

    assert await corner.left_in(queue) == [b"1", b"2"]


@conformance
async def test_each_of_several_bindings_brings_its_own(corner: Corner) -> None:
    exchange = await corner.exchange("direct")
    queue = await corner.queue(exchange, "a", "b")

    outcomes = await corner.publish(outgoing(exchange, "a", b"1"), outgoing(exchange, "c"), outgoing(exchange, "b", b"2"))

    assert outcomes == [Confirmed(), Returned("NO_ROUTE"), Confirmed()]
    assert await corner.left_in(queue) == [b"1", b"2"]


@conformance
async def test_one_queue_gathers_from_several_exchanges(corner: Corner) -> None:
    exchanges = [await corner.exchange(kind) for kind in KINDS]
    queue = Queue(corner.name("queue"), bindings=tuple(Binding(exchange.name, "k") for exchange in exchanges))
    await corner.declare(Topology((), (queue,)))

    for number, exchange in enumerate(exchanges):
        await corner.publish(outgoing(exchange, "k", b"%d" % number))

    assert [(each.body, each.exchange) for each in await corner.take(queue, 3)] == [
        (b"%d" % number, exchange.name) for number, exchange in enumerate(exchanges)
    ]


@conformance
async def test_exchanges_of_the_same_key_are_strangers(corner: Corner) -> None:
    first, second = await corner.exchange("direct"), await corner.exchange("direct")
    await corner.queue(first, "k")

    assert await corner.publish(outgoing(first, "k"), outgoing(second, "k")) == [Confirmed(), Returned("NO_ROUTE")]


@pytest.mark.parametrize("kind", KINDS)
@conformance
async def test_a_binding_counts_from_when_it_was_made(corner: Corner, kind: Kind) -> None:
    exchange = await corner.exchange(kind)
    first = await corner.queue(exchange, "k")
    await corner.publish(outgoing(exchange, "k", b"early"))

    late = await corner.queue(exchange, "k")
    await corner.publish(outgoing(exchange, "k", b"late"))

    assert await corner.left_in(first) == [b"early", b"late"]
    assert await corner.left_in(late) == [b"late"]


@conformance
async def test_a_returned_key_is_routed_once_it_is_bound(corner: Corner) -> None:
    exchange = await corner.exchange("topic")
    queue = await corner.queue(exchange, "a")
    assert await corner.publish(outgoing(exchange, "b")) == [Returned("NO_ROUTE")]

    await corner.declare(Topology((), (Queue(queue.name, bindings=(Binding(exchange.name, "b"),)),)))

    assert await corner.publish(outgoing(exchange, "b")) == [Confirmed()]
    assert await corner.publish(outgoing(exchange, "a")) == [Confirmed()]  # the earlier binding stays


@conformance
async def test_bindings_that_overlap_in_two_queues_bring_each_a_copy(corner: Corner) -> None:
    exchange = await corner.exchange("topic")
    queues = [await corner.queue(exchange, key, type="classic") for key in ("orders.*", "orders.placed", "#", "stock.*")]

    await corner.publish(outgoing(exchange, "orders.placed", b"1"))

    assert [await corner.left_in(queue) for queue in queues] == [[b"1"], [b"1"], [b"1"], []]


@conformance
async def test_bindings_survive_a_new_connection(corner: Corner) -> None:
    exchange = await corner.exchange("topic")
    queue = await corner.queue(exchange, "a.#", "b.*")
    await corner.reopen()

    outcomes = await corner.publish(outgoing(exchange, "a", b"1"), outgoing(exchange, "b.c", b"2"), outgoing(exchange, "c"))

    assert outcomes == [Confirmed(), Confirmed(), Returned("NO_ROUTE")]
    assert await corner.left_in(queue) == [b"1", b"2"]


@conformance
async def test_a_thousand_keys_find_their_queues(corner: Corner) -> None:
    exchange = await corner.exchange("topic")
    even, odd = await corner.queue(exchange, "even.*"), await corner.queue(exchange, "odd.*")

    messages = [outgoing(exchange, f"{'odd' if number % 2 else 'even'}.{number}", str(number)) for number in range(1_000)]
    await corner.transport.publish(messages)

    assert await corner.left_in(even) == [b"%d" % number for number in range(0, 1_000, 2)]
    assert await corner.left_in(odd) == [b"%d" % number for number in range(1, 1_000, 2)]


@conformance
async def test_an_exchange_without_a_binding_takes_and_returns(corner: Corner) -> None:
    exchange = Exchange(corner.name("bare"), "topic")
    await corner.declare(Topology((exchange,)))

    assert await corner.publish(outgoing(exchange, "a"), outgoing(exchange, "a", mandatory=False)) == [Returned("NO_ROUTE"), Confirmed()]
