"""Refusal: what passes can be written by pika and kept by the journal, and comes back the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pika.spec import BasicProperties

from eventplat.broker.embedded_journal import encoded
from eventplat.broker.rabbitmq_properties import from_pika, to_pika
from eventplat.broker.refusal import DEPTH_MAX, EXPIRATION_MS_MAX, HEADERS_BYTES_MAX, SHORT_BYTES_MAX, refusal
from eventplat.broker.transport import Nacked, Outgoing
from eventplat.messages.codec import Properties

WILD_TEXT = st.none() | st.text(st.characters(), max_size=300)
WILD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=5) | st.text(st.characters(), max_size=20),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(), inside, max_size=4),
)
WILD_HEADERS = st.dictionaries(st.text(max_size=300), WILD, max_size=5)


@settings(max_examples=300)
@given(st.builds(Properties, WILD_TEXT, type=WILD_TEXT, timestamp=st.none() | st.integers(), headers=WILD_HEADERS))
def test_what_passes_can_be_written_and_kept(properties: Properties) -> None:
    if refusal(Outgoing("x", "k", properties, b"")) is not None:
        return

    wire = BasicProperties()
    wire.decode(b"".join(to_pika(properties, persistent=True).encode()))

    sent = {name: value for name, value in properties.headers.items() if not name.startswith("x-")}
    assert from_pika(wire).headers == sent
    assert (from_pika(wire).message_id, from_pika(wire).timestamp) == (properties.message_id, properties.timestamp)
    assert Properties(*json.loads(encoded(properties))) == properties


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


EDGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "text": ({"type": "x" * SHORT_BYTES_MAX}, {"type": "x" * (SHORT_BYTES_MAX + 1)}),
    "text in bytes": ({"type": "é" * 127}, {"type": "é" * 128}),
    "timestamp": ({"timestamp": 2**64 - 1}, {"timestamp": 2**64}),
    "expiration": ({"expiration": str(EXPIRATION_MS_MAX)}, {"expiration": str(EXPIRATION_MS_MAX + 1)}),
    "expiration of many digits": ({"expiration": "0" * 19 + "1"}, {"expiration": "0" * 20 + "1"}),
    "expiration that is too long for a number": ({"expiration": "1"}, {"expiration": "9" * 5_000}),
    "number above": ({"headers": {"a": 2**63 - 1}}, {"headers": {"a": 2**63}}),
    "number below": ({"headers": {"a": -(2**63)}}, {"headers": {"a": -(2**63) - 1}}),
    "name": ({"headers": {"k" * SHORT_BYTES_MAX: 1}}, {"headers": {"k" * (SHORT_BYTES_MAX + 1): 1}}),
    "depth": ({"headers": {"a": nested(DEPTH_MAX - 1)}}, {"headers": {"a": nested(DEPTH_MAX)}}),
    "length": ({"headers": {"a": "x" * (HEADERS_BYTES_MAX - 12)}}, {"headers": {"a": "x" * (HEADERS_BYTES_MAX - 11)}}),
    "copies": ({"headers": {"cc": ["q"]}}, {"headers": {"CC": ["q"]}}),
}


@pytest.mark.parametrize("edge", EDGES)
def test_the_last_that_passes_and_the_first_that_does_not(edge: str) -> None:
    passes, refused = (refusal(Outgoing("x", "k", Properties(**properties), b"")) for properties in EDGES[edge])

    assert passes is None
    assert isinstance(refused, Nacked)
    assert "AMQP cannot carry it" in refused.reason


def test_a_list_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)

    assert refusal(Outgoing("x", "k", Properties(headers={"a": endless}), b"")) is not None
