"""Topology: values, joined without loss, under names that cannot meet. Exact names: tests/conformance."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventplat.broker.topology import Binding, Exchange, Names, Queue, Topology, binding_key, owner_of, routing_key, routing_key_of
from eventplat.errors import NoOwner
from eventplat.messages.message import Command, Event, Key, Query

KEYS = st.text(st.characters(exclude_categories=["Cs"]))
WORDS = st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)*", fullmatch=True)


class Placed(Event):
    order_id: Key[str]


class Reserve(Command[None], name="stock.reserve"):
    sku: Key[str]


class Quote(Query[int], name="prices.quote"):
    sku: Key[str]


def matches(pattern: str, key: str) -> bool:
    """Whether a topic exchange would route `key` by `pattern`; without `#`, which no pattern of ours has."""
    words, given_words = pattern.split("."), key.split(".")
    return len(words) == len(given_words) and all(word in ("*", said) for word, said in zip(words, given_words, strict=True))


@given(KEYS, WORDS)
def test_the_binding_of_a_message_catches_each_of_its_routing_keys(key: str, owner: str) -> None:
    assert matches(binding_key(Placed, owner), routing_key(Placed, owner, key))
    assert matches(binding_key(Placed, None), routing_key(Placed, owner, key))
    assert matches(binding_key(Placed, owner), routing_key(Placed, owner, None))
    assert matches(binding_key(Reserve, "stock"), routing_key(Reserve, "stock", key))
    assert matches(binding_key(Quote, "prices"), routing_key(Quote, "prices", key))


def test_a_binding_catches_nothing_of_another_owner_name_or_version() -> None:
    class Anew(Event, name="placed", version=2):
        order_id: Key[str]

    class Moved(Event):
        order_id: Key[str]

    for other in (routing_key(Placed, "mail", "o-1"), routing_key(Anew, "shop", "o-1"), routing_key(Moved, "shop", "o-1")):
        assert not matches(binding_key(Placed, "shop"), other)


def test_a_command_is_caught_in_any_stream_since_an_undo_comes_in_that_of_what_it_undoes() -> None:
    assert matches(binding_key(Reserve, "stock"), routing_key_of("stock.reserve.v1", "order", "o-1"))


@given(KEYS, WORDS)
def test_a_type_alone_tells_the_routing_key(key: str, owner: str) -> None:
    assert routing_key_of(Placed.wire.type_under(owner), "order", key) == routing_key(Placed, owner, key)
    assert routing_key_of(Quote.wire.type_under(owner), "-", None, is_query=True) == routing_key(Quote, owner, key)


def test_a_message_belongs_to_the_owner_its_class_names_else_to_the_default() -> None:
    assert owner_of(Reserve, "shop") == "stock"
    assert owner_of(Placed, "shop") == "shop"
    with pytest.raises(NoOwner, match="Placed has no owner"):
        owner_of(Placed, None)


def test_topologies_joined_hold_each_queue_once_with_all_its_bindings() -> None:
    one, two, three = (Binding("events", name) for name in ("one", "two", "three"))
    exchange = Exchange("events", "topic")
    left = Topology((exchange,), (Queue("q", bindings=(one, two)), Queue("left")))
    right = Topology((exchange, Exchange("dead", "direct")), (Queue("q", bindings=(two, three)), Queue("right")))

    joined = left | right

    assert joined.exchanges == (exchange, Exchange("dead", "direct"))
    assert joined.queues == (Queue("q", bindings=(one, two, three)), Queue("left"), Queue("right"))
    assert left | left == left
    assert Topology() | left == left == left | Topology()


def test_joining_keeps_what_a_queue_is() -> None:
    strict = Queue("q", "quorum", (Binding("events", "one"),), single_active=True, dead_letter=Binding("dead", "shop"))

    assert (Topology() | Topology(queues=(strict,))).queues == (strict,)
    assert (Topology(queues=(strict,)) | Topology(queues=(strict,))).queues == (strict,)


def test_what_one_of_two_topologies_binds_the_other_does_not_unbind() -> None:
    one, two, three = (Binding("events", name) for name in ("one", "two", "three"))
    left, right = Queue("q", bindings=(one,), unbound=(two, three)), Queue("q", bindings=(two,), unbound=(one,))

    assert (Topology(queues=(left,)) | Topology(queues=(right,))).queues == (Queue("q", bindings=(one, two), unbound=(three,)),)


@pytest.mark.parametrize("kind", ["classic", "exclusive"])
def test_only_quorum_queues_have_arguments(kind: str) -> None:
    assert Queue("q", kind, single_active=True, dead_letter=Binding("dead", "shop")).arguments == {}  # type: ignore[arg-type]


def test_arguments_are_a_copy_that_nobody_shares() -> None:
    queue = Queue("q")
    queue.arguments["x-overflow"] = "drop-head"

    assert queue.arguments["x-overflow"] == "reject-publish"


def test_a_reply_queue_of_a_process_is_told_from_that_of_a_service_by_its_name() -> None:
    names = Names("t")

    assert names.waiting("p-1").startswith(names.waiting(""))
    assert not names.replies("orders").startswith(names.waiting(""))


def test_there_are_seven_exchanges_of_seven_names() -> None:
    exchanges = Names("t").exchanges()

    assert len({exchange.name for exchange in exchanges}) == len(exchanges) == 7
    assert all(exchange.name.startswith("t.") for exchange in exchanges)
