"""Sending: a message in its envelope, addressed, with what it inherits."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from eventplat.broker.topology import Names, routing_key
from eventplat.errors import Malformed, NoOwner, TooLarge
from eventplat.messages.codec import HEADER_BYTES_MAX
from eventplat.messages.envelope import DONE, Envelope
from eventplat.messages.ids import created_us, derived_id
from eventplat.messages.message import Command, Event, Key
from eventplat.testing.virtual_clock import VirtualClock
from eventplat.transactions.letter import Letter
from eventplat.transactions.sender import Sender


class Placed(Event):
    order_id: Key[str]


class Opened(Event):
    pass


class Visited(Event):
    customer_id: Key[str | None]


class Reserve(Command[None], name="stock.reserve"):
    sku: Key[str]


class Cook(Command[None]):
    dish: str


class Shipped(Event, name="shipments.shipped"):
    pass


CAUSE = Envelope(
    id=derived_id(1, "cause"), type="shop.place.v1", body=b"{}", correlation_id="c-1", causation="c-0", reply_to="r", app_id="gateway",
    user_id="u", key="other", stream="other", seq=3, prev=2, deadline_ms=9, undoes="x", grant="signed", traceparent="trace",
)  # fmt: skip


def sender(**more: Any) -> Sender:
    return Sender("shop", Names("t"), VirtualClock(), random.Random(1), **more)


def test_a_message_begins_a_conversation_of_its_own() -> None:
    letter = sender(user_id="shop-user").letter(Placed(order_id="o-1"), cause=None)

    assert (letter.exchange, letter.routing_key) == ("t.events", routing_key(Placed, "shop", "o-1"))
    assert letter.envelope == Envelope(
        id=letter.envelope.id, type="shop.placed.v1", body=b'{"order_id":"o-1"}', correlation_id=letter.envelope.id, app_id="shop",
        user_id="shop-user", key="o-1", stream="order",
    )  # fmt: skip
    assert created_us(letter.envelope.id) == VirtualClock().time_us()
    assert letter.takes_turn


def test_what_a_message_causes_goes_on_with_its_conversation_grant_and_trace_and_with_nothing_else() -> None:
    envelope = sender().letter(Reserve(sku="s"), cause=CAUSE).envelope

    assert (envelope.correlation_id, envelope.causation, envelope.grant, envelope.traceparent) == ("c-1", CAUSE.id, "signed", "trace")
    assert (envelope.reply_to, envelope.seq, envelope.prev, envelope.deadline_ms, envelope.undoes) == (None, None, None, None, None)
    assert (envelope.app_id, envelope.user_id, envelope.key, envelope.stream) == ("shop", None, "s", "sku")


def test_a_command_goes_to_its_owner_and_takes_no_turn() -> None:
    letter = sender().letter(Reserve(sku="s"), cause=None, id_="mine", reply_to="r", undoes="u", deadline_ms=5)

    assert (letter.exchange, letter.routing_key) == ("t.commands", routing_key(Reserve, "stock", "s"))
    assert (letter.envelope.id, letter.envelope.type) == ("mine", "stock.reserve.v1")
    assert (letter.envelope.reply_to, letter.envelope.undoes, letter.envelope.deadline_ms) == ("r", "u", 5)
    assert not letter.takes_turn


def test_a_command_without_an_owner_has_one_where_this_process_knows_it() -> None:
    assert sender(owners={Cook: "kitchen"}).letter(Cook(dish="soup"), cause=None).envelope.type == "kitchen.cook.v1"
    with pytest.raises(NoOwner, match="Cook has no owner"):
        sender().letter(Cook(dish="soup"), cause=None)


def test_an_event_of_another_service_is_not_ours_to_publish() -> None:
    with pytest.raises(NoOwner, match="belongs to 'shipments': 'shop' cannot publish it"):
        sender().letter(Shipped(), cause=None)


@pytest.mark.parametrize("event", [Opened(), Visited(customer_id=None)])
def test_an_event_without_a_key_has_no_stream_and_no_turn(event: Event) -> None:
    letter = sender().letter(event, cause=None)

    assert (letter.envelope.key, letter.envelope.stream) == (None, None)
    assert letter.routing_key.endswith(".-")
    assert not letter.takes_turn


def test_a_delayed_event_takes_no_turn_or_its_successors_would_wait() -> None:
    assert not sender().letter(Placed(order_id="o-1"), cause=None, after_us=1).takes_turn


def test_a_body_or_key_that_no_receiver_would_take_is_refused_where_it_is_sent() -> None:
    with pytest.raises(TooLarge, match="body"):
        sender(owners={Cook: "kitchen"}).letter(Cook(dish="x" * 1_048_576), cause=None)
    with pytest.raises(TooLarge, match="header key"):
        sender().letter(Placed(order_id="k" * (HEADER_BYTES_MAX + 1)), cause=None)
    with pytest.raises(Malformed, match=r"U\+0000"):
        sender().letter(Placed(order_id="o\0"), cause=None)


def test_answering_again_is_the_same_message() -> None:
    letters = [sender(user_id="u").answer(CAUSE, DONE, b"1") for _ in range(2)]

    assert letters[0] == letters[1]
    assert letters[0].envelope.causation == CAUSE.id
    assert (letters[0].envelope.grant, letters[0].envelope.key) == (None, None)


def test_a_letter_leaves_with_its_exact_bytes() -> None:
    letter = Letter("t.events", "r", replace(CAUSE, body=b'{ "a":1}'))

    assert (letter.outgoing().body, letter.outgoing().exchange, letter.outgoing().routing_key) == (b'{ "a":1}', "t.events", "r")
    assert letter.outgoing().mandatory
