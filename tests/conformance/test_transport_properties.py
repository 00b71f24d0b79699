"""What a message carries, on both transports: it arrives as it was sent, or it is refused alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from eventplat.broker.refusal import EXPIRATION_MS_MAX, HEADERS_BYTES_MAX
from eventplat.broker.transport import Confirmed, Delivery, Nacked, Outgoing
from eventplat.messages.codec import Properties
from tests.conformance.brokers import Corner, conformance, outgoing

SNOWMAN = "\N{SNOWMAN}"
TEXTS = ("message_id", "type", "correlation_id", "reply_to", "app_id", "content_type")
FULL = Properties(
    "m-1", "orders.order-placed.v1", "c-1", "replies.1", "orders", "guest", 1_790_000_000, "application/json", "3600000",
    {"traceparent": "00-1-2-01", "key": "o-1", "seq": 1_790_000_000_000_000, "v": 1},
)


async def carried(corner: Corner, properties: Properties, body: bytes = b"{}") -> Delivery:
    queue, write = await corner.direct()
    assert await corner.publish(Outgoing(write().exchange, "k", properties, body)) == [Confirmed()]
    return (await corner.take(queue, 1))[0]


@conformance
async def test_every_property_arrives_as_it_was_sent(corner: Corner) -> None:
    assert (await carried(corner, FULL)).properties == FULL


@conformance
async def test_what_was_not_set_is_not_set(corner: Corner) -> None:
    assert (await carried(corner, Properties())).properties == Properties()


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("text", ["", "plain", f"{SNOWMAN} Grüße", "x" * 255, SNOWMAN * 85, "a\x00b", " \n\t"], ids=range(7))
@conformance
async def test_a_text_property_arrives_whole(corner: Corner, name: str, text: str) -> None:
    properties = replace(Properties(), **{name: text})  # type: ignore[arg-type]

    assert (await carried(corner, properties)).properties == properties


@pytest.mark.parametrize("timestamp", [0, 1, 1_790_000_000, 2**32, 2**63, 2**64 - 1])
@conformance
async def test_a_timestamp_arrives_whole(corner: Corner, timestamp: int) -> None:
    assert (await carried(corner, Properties(timestamp=timestamp))).properties.timestamp == timestamp


HEADERS: dict[str, Any] = {
    "text": "plain",
    "nothing": "",
    "unicode": f"{SNOWMAN} Grüße",
    "long": "x" * (HEADERS_BYTES_MAX - 100),
    "zero": 0,
    "one-byte": -5,
    "32-bits": 2**31 - 1,
    "more-than-32-bits": 2**31,
    "largest": 2**63 - 1,
    "smallest": -(2**63),
    "true": True,
    "false": False,
    "none": None,
    "list": [1, "two", None, [3]],
    "table": {"a": {"b": [1, {"c": SNOWMAN}]}},
    "empty-list": [],
    "empty-table": {},
}


@pytest.mark.parametrize("name", HEADERS)
@conformance
async def test_a_header_arrives_with_its_type(corner: Corner, name: str) -> None:
    arrived = (await carried(corner, Properties(headers={name: HEADERS[name]}))).properties.headers

    assert arrived == {name: HEADERS[name]}
    assert str(arrived[name]) == str(HEADERS[name])
    assert isinstance(arrived[name], type(HEADERS[name]))


@pytest.mark.parametrize("name", ["", SNOWMAN, "x" * 255, "with space", "X-upper"], ids=range(5))
@conformance
async def test_a_header_may_have_any_name(corner: Corner, name: str) -> None:
    assert (await carried(corner, Properties(headers={name: 1}))).properties.headers == {name: 1}


@conformance
async def test_many_headers_arrive_together(corner: Corner) -> None:
    headers = {f"header-{number}": number for number in range(500)}

    assert (await carried(corner, Properties(headers=headers))).properties.headers == headers


@pytest.mark.parametrize("name", ["x-death", "x-delivery-count", "x-first-death-queue", "x-mine"])
@conformance
async def test_headers_of_the_broker_cannot_be_forged(corner: Corner, name: str) -> None:
    delivery = await carried(corner, Properties(headers={name: 9, "key": "k"}))

    assert delivery.properties.headers == {"key": "k"}
    assert delivery.delivery_count == 0


@pytest.mark.parametrize("body", [b"", b"{}", bytes(range(256)), b"x" * 131_072, bytes(1_048_576)], ids=["0", "2", "256", "128K", "1M"])
@conformance
async def test_a_body_arrives_byte_for_byte(corner: Corner, body: bytes) -> None:
    assert (await carried(corner, Properties(), body)).body == body


@conformance
async def test_the_longest_routing_key_leads_where_it_is_bound(corner: Corner) -> None:
    exchange, key = await corner.exchange("direct"), "k" * 255
    queue = await corner.queue(exchange, key)

    await corner.publish(outgoing(exchange, key, b"1"))

    assert [each.routing_key for each in await corner.take(queue, 1)] == [key]


@conformance
async def test_a_delivery_knows_where_it_came_from(corner: Corner) -> None:
    exchange = await corner.exchange("topic")
    queue = await corner.queue(exchange, "orders.#")
    await corner.publish(outgoing(exchange, "orders.placed", b"1"))

    (delivery,) = await corner.take(queue, 1)

    assert (delivery.exchange, delivery.routing_key, delivery.queue) == (exchange.name, "orders.placed", queue.name)
    assert (delivery.redelivered, delivery.delivery_count) == (False, 0)


REFUSED: dict[str, dict[str, Any]] = {
    **{f"long-{name}": {name: "x" * 256} for name in (*TEXTS, "user_id")},
    "long-in-bytes": {"type": SNOWMAN * 86},
    "half-a-character": {"message_id": "\ud800"},
    "timestamp-below": {"timestamp": -1},
    "timestamp-above": {"timestamp": 2**64},
    "expiration-word": {"expiration": "soon"},
    "expiration-negative": {"expiration": "-1"},
    "expiration-fraction": {"expiration": "5.0"},
    "expiration-signed": {"expiration": "+5"},
    "expiration-blank": {"expiration": ""},
    "expiration-digits-of-another-script": {"expiration": "\N{ARABIC-INDIC DIGIT FIVE}"},
    "expiration-above": {"expiration": str(EXPIRATION_MS_MAX + 1)},
    "header-float": {"headers": {"a": 1.5}},
    "header-bytes": {"headers": {"a": b"x"}},
    "header-tuple": {"headers": {"a": (1, 2)}},
    "header-object": {"headers": {"a": object()}},
    "header-number-above": {"headers": {"a": 2**63}},
    "header-number-below": {"headers": {"a": -(2**63) - 1}},
    "header-deep-inside": {"headers": {"a": [{"b": [1.5]}]}},
    "header-half-a-character": {"headers": {"a": "\ud800"}},
    "header-name-number": {"headers": {1: 2}},
    "header-name-long": {"headers": {"k" * 256: 1}},
    "headers-too-long": {"headers": {"a": "x" * HEADERS_BYTES_MAX}},
    "headers-too-long-together": {"headers": {f"h{number}": "x" * 100 for number in range(1_000)}},
    "headers-longer-than-a-frame": {"headers": {"a": "x" * 200_000}},
    "headers-too-deep": {"headers": {"a": [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]}},
    "copies-elsewhere": {"headers": {"CC": ["other"]}},
    "copies-elsewhere-unseen": {"headers": {"BCC": ["other"]}},
}


@pytest.mark.parametrize("case", REFUSED)
@conformance
async def test_what_amqp_cannot_carry_is_refused_alone(corner: Corner, case: str) -> None:
    queue, write = await corner.direct()

    outcomes = await corner.publish(write(b"before"), write(b"bad", **REFUSED[case]), write(b"after"))

    assert [type(outcome) for outcome in outcomes] == [Confirmed, Nacked, Confirmed]
    assert corner.transport.state == "connected"
    assert await corner.left_in(queue) == [b"before", b"after"]


@pytest.mark.parametrize("place", ["exchange", "routing key"])
@conformance
async def test_a_name_longer_than_amqp_allows_is_refused(corner: Corner, place: str) -> None:
    exchange = await corner.exchange("topic")
    bad = outgoing("e" * 256, "k") if place == "exchange" else outgoing(exchange, "k" * 256)

    assert [type(outcome) for outcome in await corner.publish(bad)] == [Nacked]


@conformance
async def test_a_batch_of_nothing_but_refused_messages_is_settled(corner: Corner) -> None:
    _, write = await corner.direct()

    assert [type(each) for each in await corner.publish(*[write(headers={"a": 1.5})] * 3)] == [Nacked] * 3


@conformance
async def test_a_copy_with_a_header_for_copies_goes_nowhere_else(corner: Corner) -> None:
    exchange = await corner.exchange("direct")
    queue, elsewhere = await corner.queue(exchange, "k"), await corner.queue(exchange, "elsewhere")
    await corner.publish(outgoing(exchange, "k", b"1", headers={"CC": ["elsewhere"]}))
    await corner.publish(outgoing(exchange, "k", b"2"))

    await corner.until_depth(queue, 1)
    assert await corner.transport.depth(elsewhere.name) == 0


@conformance
async def test_each_queue_has_properties_of_its_own(corner: Corner) -> None:
    exchange = await corner.exchange("fanout")
    queues = [await corner.queue(exchange, "", type="classic") for _ in range(2)]
    await corner.publish(outgoing(exchange, "", headers={"key": "k", "list": [1]}))

    (first,) = await corner.take(queues[0], 1)
    first.properties.headers["key"] = "changed"
    first.properties.headers["list"].append(2)
    (second,) = await corner.take(queues[1], 1)

    assert second.properties.headers == {"key": "k", "list": [1]}


@conformance
async def test_a_message_that_comes_again_is_as_it_was_sent(corner: Corner) -> None:
    queue, write = await corner.direct()
    await corner.publish(write(b"1", headers={"list": [1]}))
    received, _ = await corner.consume(queue)
    (first,) = await received.reach(1)
    first.properties.headers["list"].append(2)
    first.requeue()

    await received.reach(2)

    assert received[1].properties.headers == {"list": [1]}
    assert received[1].properties.message_id == first.properties.message_id
