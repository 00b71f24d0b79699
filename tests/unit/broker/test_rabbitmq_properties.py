"""Properties: there and back as they were, without what is a broker's own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import BasicProperties

from eventplat.broker.rabbitmq_properties import delivery_count, from_pika, to_pika
from eventplat.messages.codec import Properties

TEXT = st.none() | st.text(max_size=20)
HEADERS = st.dictionaries(
    st.text(max_size=10).filter(lambda name: not name.startswith("x-")), st.none() | st.booleans() | st.text(max_size=10) | st.integers()
)


@given(st.builds(Properties, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, st.none() | st.integers(0, 2**63), TEXT, TEXT, HEADERS))
def test_there_and_back_is_the_same(properties: Properties) -> None:
    assert from_pika(to_pika(properties, persistent=True)) == properties


@pytest.mark.parametrize(("persistent", "mode"), [(True, 2), (False, 1)])
def test_what_must_survive_has_delivery_mode_two(persistent: bool, mode: int) -> None:
    assert to_pika(Properties(), persistent=persistent).delivery_mode == mode


def test_headers_of_the_broker_pass_in_neither_direction() -> None:
    headers: dict[str, Any] = {"x-death": [{"count": 1}], "x-delivery-count": 3, "key": "k"}

    assert to_pika(Properties(headers=headers), persistent=True).headers == {"key": "k"}
    assert from_pika(BasicProperties(headers=headers)).headers == {"key": "k"}


def test_no_headers_are_not_sent() -> None:
    assert to_pika(Properties(headers={"x-death": 1}), persistent=True).headers is None
    assert from_pika(BasicProperties()).headers == {}


@pytest.mark.parametrize(
    ("headers", "count"), [(None, None), ({}, None), ({"x-delivery-count": 4}, 4), ({"x-delivery-count": "many"}, None)]
)
def test_a_delivery_is_counted_by_the_queue(headers: dict[str, Any] | None, count: int | None) -> None:
    assert delivery_count(BasicProperties(headers=headers)) == count
