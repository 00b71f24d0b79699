"""Stored messages: what a row keeps is what was sent, property for property."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventplat.broker.transport import Outgoing
from eventplat.messages.codec import Properties
from eventplat.transactions.stored import properties_text, to_outgoing, to_properties

TEXTS = st.none() | st.text()
HEADERS = st.dictionaries(st.text(), st.text() | st.integers())
PROPERTIES = st.builds(
    Properties, message_id=TEXTS, type=TEXTS, correlation_id=TEXTS, reply_to=TEXTS, app_id=TEXTS, user_id=TEXTS,
    timestamp=st.none() | st.integers(0, 1 << 63), content_type=TEXTS, expiration=TEXTS, headers=HEADERS,
)  # fmt: skip


@given(PROPERTIES)
def test_what_is_kept_is_what_was_sent(properties: Properties) -> None:
    assert to_properties(properties_text(properties)) == properties


def test_a_timestamp_of_zero_is_kept() -> None:
    """An id derived from an Idempotency-Key without a time carries 0: its copies must not differ by who sends them."""
    assert to_properties(properties_text(Properties(timestamp=0))).timestamp == 0


@pytest.mark.parametrize(
    ("properties", "text"),
    [
        (Properties(), "{}"),
        (Properties(timestamp=0, headers={"key": "größe"}), '{"timestamp":0,"headers":{"key":"gr\\u00f6\\u00dfe"}}'),
        (Properties(reply_to="", expiration="0"), '{"reply_to":"","expiration":"0"}'),
    ],
    ids=["nothing", "some", "empty"],
)
def test_a_row_written_by_another_release_reads_alike(properties: Properties, text: str) -> None:
    assert properties_text(properties) == text
    assert to_properties(text) == properties


def test_u0000_is_escaped_since_postgresql_takes_none() -> None:
    assert "\0" not in properties_text(Properties(app_id="a\0b", headers={"other": "\0"}))


def test_what_json_cannot_hold_is_an_error_and_no_other_text() -> None:
    with pytest.raises(TypeError):
        properties_text(Properties(headers={"other": b"\xff"}))


@dataclass
class Row:
    exchange: str
    routing_key: str
    mandatory: bool
    properties: str
    body: bytes


@pytest.mark.parametrize("mandatory", [True, False])
def test_a_row_leaves_as_the_message_it_keeps(mandatory: bool) -> None:
    row = Row("eventplat.events", "shop.order.placed.v1.3", mandatory, json.dumps({"message_id": "m", "timestamp": 7}), b'{"a":1 }')

    assert to_outgoing(row) == Outgoing(
        "eventplat.events", "shop.order.placed.v1.3", Properties(message_id="m", timestamp=7), b'{"a":1 }', mandatory=mandatory
    )
