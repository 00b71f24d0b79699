"""Properties: eventplat's message properties as pika's, and back. Pure.

Names and meaning are AMQP's own, so this is a copy, with two rules. What must survive a broker restart has
delivery mode 2. Headers that the broker adds (`x-death`, `x-delivery-count`, ...) never pass this file, in either direction:
republished, an `x-death` makes RabbitMQ take the message for a cycle and drop it, and an `x-delivery-count` of the
sender's would be the first count its receiver sees.

Source: AMQP 0-9-1, 1.8.3 basic class; RabbitMQ, "Dead Letter Exchanges", cycles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pika import BasicProperties

from eventplat.messages.codec import Properties

COUNT_HEADER = "x-delivery-count"


def to_pika(properties: Properties, *, persistent: bool) -> BasicProperties:
    """As pika sends them."""
    return BasicProperties(
        message_id=properties.message_id,
        type=properties.type,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        app_id=properties.app_id,
        user_id=properties.user_id,
        timestamp=properties.timestamp,
        content_type=properties.content_type,
        expiration=properties.expiration,
        headers=_without_brokers_own(properties.headers) or None,
        delivery_mode=2 if persistent else 1,
    )


def from_pika(properties: BasicProperties) -> Properties:
    """As they were sent: without the headers that brokers add."""
    return Properties(
        message_id=_text(properties.message_id),
        type=_text(properties.type),
        correlation_id=_text(properties.correlation_id),
        reply_to=_text(properties.reply_to),
        app_id=_text(properties.app_id),
        user_id=_text(properties.user_id),
        timestamp=properties.timestamp,
        content_type=_text(properties.content_type),
        expiration=_text(properties.expiration),
        headers=_without_brokers_own(properties.headers or {}),
    )


def delivery_count(properties: BasicProperties) -> int | None:
    """How often a message was handed out before, where its queue counts it and did so."""
    count = (properties.headers or {}).get(COUNT_HEADER)
    return int(count) if isinstance(count, int) else None


def _without_brokers_own(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for key, value in headers.items() if not (name := _text(key) or "").startswith("x-")}


def _text(value: str | bytes | None) -> str | None:
    """`value` as text: pika hands out bytes where they are no UTF-8, and what raises in its callback ends the connection."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
