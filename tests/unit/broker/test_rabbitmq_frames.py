"""Frames: what is written and read in one pass is what pika writes and reads, byte for byte and field for field."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import BasicProperties, frame, spec

from eventplat.broker.rabbitmq_frames import read_deliveries, to_frames
from eventplat.broker.rabbitmq_properties import delivery_count, from_pika, to_pika
from eventplat.broker.transport import Outgoing
from eventplat.messages.codec import Properties

BODY_MAX = 64
TAG = b"q#3"
KNOWN = {(3, TAG)}

short = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
plain = st.one_of(short, st.integers(-(2**63), 2**63 - 1))
maybe = st.none() | short
made = st.builds(
    Properties,
    message_id=maybe, type=maybe, correlation_id=maybe, reply_to=maybe, app_id=maybe, user_id=maybe, content_type=maybe,
    timestamp=st.none() | st.integers(0, 2**64 - 1), expiration=st.none() | st.integers(0, 2**32).map(str),
    headers=st.dictionaries(short, plain, max_size=5),
)  # fmt: skip
outgoing = st.builds(
    Outgoing, exchange=short, routing_key=short, properties=made, body=st.binary(max_size=200), mandatory=st.booleans(),
    persistent=st.booleans(),
)  # fmt: skip


def contents(channel: int, properties: BasicProperties, body: bytes) -> bytes:
    pieces = [body[start : start + BODY_MAX] for start in range(0, len(body), BODY_MAX)]
    header: Any = frame.Header(channel, len(body), properties)
    return bytes(header.marshal() + b"".join(frame.Body(channel, piece).marshal() for piece in pieces))


def delivered(message: Outgoing, properties: BasicProperties | None = None, *, channel: int = 3, redelivered: bool = False) -> bytes:
    method: Any = spec.Basic.Deliver(TAG.decode(), 7, redelivered, message.exchange, message.routing_key)
    raw = properties if properties is not None else to_pika(message.properties, persistent=message.persistent)
    return bytes(frame.Method(channel, method).marshal()) + contents(channel, raw, message.body)


@given(outgoing)
def test_a_message_is_written_as_pika_writes_it(message: Outgoing) -> None:
    method: Any = spec.Basic.Publish(exchange=message.exchange, routing_key=message.routing_key, mandatory=message.mandatory)
    stock = frame.Method(5, method).marshal() + contents(5, to_pika(message.properties, persistent=message.persistent), message.body)

    assert to_frames(5, message, body_max=BODY_MAX) == stock


@pytest.mark.parametrize("value", [None, True, ["a"], {"a": 1}])
def test_what_is_not_plain_is_left_to_pika(value: Any) -> None:
    assert to_frames(1, Outgoing("e", "k", Properties(headers={"odd": value}), b""), body_max=BODY_MAX) is None


@given(outgoing, st.booleans(), st.none() | st.integers(0, 9))
def test_a_delivery_is_read_as_pika_reads_it(message: Outgoing, redelivered: bool, count: int | None) -> None:
    raw = to_pika(message.properties, persistent=True)
    if count is not None:
        raw.headers = {**(raw.headers or {}), "x-delivery-count": count, "x-death": [{"count": 1}]}
    stream = delivered(message, raw, redelivered=redelivered)

    ((it,), length) = read_deliveries(stream, KNOWN)

    assert (it.channel, it.consumer_tag, it.delivery_tag, it.redelivered) == (3, TAG, 7, redelivered)
    assert (it.exchange, it.routing_key, it.body, length) == (message.exchange, message.routing_key, message.body, len(stream))
    assert it.properties == from_pika(raw)
    assert it.deliveries == delivery_count(raw)


@given(st.lists(outgoing, min_size=1, max_size=4), st.data())
def test_a_stream_cut_anywhere_is_read_as_far_as_it_is_whole(messages: list[Outgoing], data: st.DataObject) -> None:
    streams = [delivered(message) for message in messages]
    whole = b"".join(streams)
    cut = data.draw(st.integers(0, len(whole)))

    arrived, length = read_deliveries(whole[:cut], KNOWN)

    ends = [sum(map(len, streams[: place + 1])) for place in range(len(streams))]
    assert length == max((end for end in ends if end <= cut), default=0)
    assert [it.body for it in arrived] == [message.body for message, end in zip(messages, ends, strict=True) if end <= cut]


MESSAGE = Outgoing("e", "k", Properties(message_id="m"), b"{}")


@pytest.mark.parametrize(
    "stream",
    [
        delivered(MESSAGE, channel=4),
        delivered(MESSAGE, BasicProperties(priority=3)),
        delivered(MESSAGE, BasicProperties(message_id=b"\xff\xfe")),  # type: ignore[arg-type]
        delivered(MESSAGE, BasicProperties(headers={"text": b"bytes", "k": "v"}))[:-9],
        frame.Heartbeat().marshal(),
        contents(3, BasicProperties(), b"{}"),
    ],
    ids=["another consumer's", "a priority", "no UTF-8", "half of it", "a heartbeat", "no method"],
)
def test_the_rest_stays_in_place_for_pika(stream: bytes) -> None:
    assert read_deliveries(stream, KNOWN) == ([], 0)


def test_what_follows_something_else_waits_for_its_turn() -> None:
    one, other = delivered(MESSAGE), frame.Heartbeat().marshal()

    arrived, length = read_deliveries(one + one + other + one, KNOWN)

    assert (len(arrived), length) == (2, 2 * len(one))
