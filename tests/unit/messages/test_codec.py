"""The codec: whatever comes from the wire is a message or a `Malformed`, and bytes stay what they were."""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from eventplat.errors import Malformed, TooLarge
from eventplat.messages.codec import (
    BODY_BYTES_MAX,
    DEPTH_MAX,
    HEADER_BYTES_MAX,
    Properties,
    check_key,
    check_size,
    parse,
    to_envelope,
    to_properties,
)
from eventplat.messages.envelope import Envelope
from eventplat.messages.ids import derived_id
from eventplat.messages.message import Event

WEBHOOKS = Path(__file__).parents[3].parent / "shared" / "data" / "github_webhooks_api.jsonl.gz"
ID = derived_id(1_893_499_200_000_000, "one")
GOOD = Properties(message_id=ID, type="shop.order-placed.v1", correlation_id=ID, content_type="application/json")

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=50)
NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1)
IDS = st.builds(derived_id, st.integers(0, 1 << 57), TEXTS)
ENVELOPES = st.builds(
    Envelope, id=IDS, type=TEXTS.filter(bool), body=st.binary(), correlation_id=TEXTS.filter(bool), causation=st.none() | IDS,
    reply_to=st.none() | TEXTS, app_id=st.none() | TEXTS, user_id=st.none() | TEXTS, key=st.none() | TEXTS, stream=st.none() | TEXTS,
    seq=st.none() | NUMBERS, prev=st.none() | NUMBERS, deadline_ms=st.none() | NUMBERS, undoes=st.none() | IDS,
    grant=st.none() | TEXTS, traceparent=st.none() | TEXTS, v=st.integers(1, 9),
)  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
HEADERS = st.dictionaries(
    st.sampled_from(["traceparent", "causation", "key", "stream", "undoes", "grant", "seq", "prev", "deadline", "v", "other"]), ANYTHING
)


class Placed(Event):
    order_id: str
    quantity: int = 1


PLACED: TypeAdapter[Placed] = TypeAdapter(Placed)


@given(ENVELOPES)
def test_every_envelope_arrives_as_it_was_sent(envelope: Envelope) -> None:
    if envelope.body.count(b"[") + envelope.body.count(b"{") <= DEPTH_MAX:
        assert to_envelope(to_properties(envelope), envelope.body) == envelope


@settings(max_examples=50)
@given(HEADERS, st.binary())
def test_hostile_headers_are_a_message_or_malformed(headers: dict[str, Any], body: bytes) -> None:
    try:
        envelope = to_envelope(replace(GOOD, headers=headers), body)
    except Malformed:
        return
    assert envelope.body == body
    for text in (envelope.key, envelope.stream, envelope.grant, envelope.traceparent):
        assert text is None or "\0" not in text
        assert text is None or len(text.encode()) <= HEADER_BYTES_MAX


@given(st.binary(max_size=200) | st.text().map(lambda text: json.dumps({"order_id": text}).encode()))
def test_hostile_bytes_are_a_message_or_malformed(body: bytes) -> None:
    try:
        message = parse(PLACED, body)
    except Malformed:
        return
    assert isinstance(message, Placed)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"{", b'{"order_id":1}', b'{"order_id":"\xff"}', b'{"order_id":"\\ud800"}', b'\xef\xbb\xbf{"order_id":"a"}',
        b'{"order_id":"a"}{}', b"{'order_id':'a'}", b'{"order_id":"a","quantity":"many"}', b'{"order_id":"a","quantity":1e999}',
        '{"order_id":"a"}'.encode("utf-16"), b"\0", b"[" * 100_000,
    ],
    ids=range(15),
)  # fmt: skip
def test_what_is_not_of_its_class_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        parse(PLACED, body)


def test_a_malformed_body_says_which_fields_are_wrong_and_three_at_most() -> None:
    class Many(BaseModel):
        a: int
        b: int
        c: int
        d: int

    with pytest.raises(Malformed, match=r"a: Field required; b: .*; c: ") as raised:
        parse(TypeAdapter(Many), b"{}")
    assert "d: " not in str(raised.value)


def test_an_unknown_field_is_ignored() -> None:
    assert parse(PLACED, b'{"order_id":"a","colour":{"r":1}}') == Placed(order_id="a")


def test_a_body_may_be_as_long_as_the_limit_and_no_longer() -> None:
    check_size(b'"' + b"a" * (BODY_BYTES_MAX - 2) + b'"')

    with pytest.raises(TooLarge, match="1,048,577 bytes, the limit is 1,048,576"):
        check_size(b'"' + b"a" * (BODY_BYTES_MAX - 1) + b'"')


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_a_body_may_be_as_deep_as_the_limit_and_no_deeper(opening: bytes) -> None:
    levels = opening.count(b"[") + opening.count(b"{")

    check_size(opening * (DEPTH_MAX // levels))
    with pytest.raises(TooLarge, match="levels deep"):
        check_size(opening * (DEPTH_MAX // levels + 1))


@pytest.mark.parametrize("body", [b"[]," * 100, b'"' + b"[" * 100 + b'"', b'"\\"' + b"[" * 100 + b'"', b'{"a":"\\\\"}' + b"{}" * 100])
def test_brackets_side_by_side_and_in_texts_are_not_depth(body: bytes) -> None:
    check_size(body)


def test_a_quote_after_an_escaped_backslash_ends_its_text() -> None:
    with pytest.raises(TooLarge):
        check_size(b'"\\\\"' + b"[" * 33)


@pytest.mark.parametrize("key", [None, "", "o-1", "k" * HEADER_BYTES_MAX, "日" * (HEADER_BYTES_MAX // 3)])
def test_a_key_that_every_receiver_takes_may_be_sent(key: str | None) -> None:
    check_key(key)


@pytest.mark.parametrize("key", ["k" * (HEADER_BYTES_MAX + 1), "日" * (HEADER_BYTES_MAX // 3 + 1)])
def test_a_header_is_measured_in_bytes(key: str) -> None:
    with pytest.raises(TooLarge, match="bytes, the limit is 8,192"):
        check_key(key)
    with pytest.raises(TooLarge, match="bytes, the limit is 8,192"):
        to_envelope(replace(GOOD, headers={"key": key}), b"{}")


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_a_text_that_a_database_cannot_hold_is_malformed(text: str) -> None:
    with pytest.raises(Malformed, match="header key"):
        check_key(text)
    for name in ("key", "stream", "grant", "traceparent"):
        with pytest.raises(Malformed, match=f"header {name}"):
            to_envelope(replace(GOOD, headers={name: text}), b"{}")
    for name in ("type", "app_id", "user_id", "reply_to", "correlation_id"):
        with pytest.raises(Malformed, match=f"{name} property"):
            to_envelope(Properties(**(asdict(GOOD) | {name: text})), b"{}")


@pytest.mark.parametrize("name", ["seq", "prev", "deadline", "v"])
def test_a_number_that_a_database_cannot_hold_is_malformed(name: str) -> None:
    for number in (1 << 63, -(1 << 63) - 1, 1 << 64):
        with pytest.raises(Malformed, match=f"header {name} is .* over 64 bits"):
            to_envelope(replace(GOOD, headers={name: number}), b"{}")
    to_envelope(replace(GOOD, headers={name: (1 << 63) - 1}), b"{}")
    to_envelope(replace(GOOD, headers={name: -(1 << 63)}), b"{}")


def webhooks() -> list[bytes]:
    """Real events as they were sent; without them the test skips, which CI counts as a failure."""
    found = Path(os.environ.get("EVENTPLAT_WEBHOOKS_FILE", WEBHOOKS))
    if not found.exists():
        pytest.skip(f"the webhooks file is not at {found}")
    with gzip.open(found) as lines:
        return [line.rstrip(b"\n") for line in lines]


class Webhook(Event):
    host: str
    event: str
    file: str
    payload: dict[str, Any]


def test_real_events_pass_the_limits_and_keep_their_bytes() -> None:
    bodies = webhooks()
    for body in bodies:
        sent = Envelope(id=ID, type="github.webhook.v1", body=body, correlation_id=ID, app_id="github")
        arrived = to_envelope(to_properties(sent), body)
        assert arrived == sent
        assert arrived.body is body

    assert len(bodies) == 273


def test_real_events_are_read_and_written_without_loss() -> None:
    for body in webhooks():
        message = parse(TypeAdapter(Webhook), body)

        assert message.model_dump() == json.loads(body)
        assert json.loads(message.to_bytes()) == json.loads(body)
        assert parse(TypeAdapter(Webhook), message.to_bytes()) == message


def test_real_events_cut_anywhere_are_malformed() -> None:
    for body in webhooks()[::10]:
        for at in (1, len(body) // 3, len(body) // 2, len(body) - 1):
            with pytest.raises(Malformed):
                parse(TypeAdapter(Webhook), body[:at])


def test_real_events_buried_too_deep_are_refused() -> None:
    for body in webhooks()[::10]:
        with pytest.raises(TooLarge, match="levels deep"):
            check_size(b"[" * DEPTH_MAX + body + b"]" * DEPTH_MAX)
