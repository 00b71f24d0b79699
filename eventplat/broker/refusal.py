"""Refusal: what AMQP cannot carry, said before it is written and alike on both transports. Pure.

A broker answers some of this by closing the channel, and too long a header frame by closing the connection
(501 FRAME_ERROR): a caller that sends again would take everybody's connection down with each try. So a message
is looked at first, and refused alone.

Names     exchange, routing key, properties and header names are at most 255 bytes of UTF-8.
Headers   text, whole numbers of 64 bits, truth values, None, and lists and tables of these: not floats and bytes, which
          pika or the journal cannot keep. At most `HEADERS_BYTES_MAX`: they travel in one frame. `CC` and `BCC` would make
          RabbitMQ send copies elsewhere.
Expiry    digits: whole milliseconds, at most `EXPIRATION_MS_MAX`.

Source: AMQP 0-9-1, 4.2.5 (field tables), 4.2.3 (frame size); RabbitMQ, "Sender-selected Distribution", "Time-to-Live".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eventplat.broker.transport import Nacked, Outgoing

SHORT_BYTES_MAX = 255
HEADERS_BYTES_MAX = 65_536
DEPTH_MAX = 16
EXPIRATION_MS_MAX = 2**32
EXPIRATION_DIGITS_MAX = 20
WHOLE_MIN, WHOLE_MAX = -(2**63), 2**63 - 1
TIMESTAMP_MAX = 2**64 - 1
COPIES_ELSEWHERE = frozenset({"CC", "BCC"})


def refusal(message: Outgoing) -> Nacked | None:
    """Why no broker may have `message`, or None."""
    try:
        _check(message)
    except (_Unwritable, UnicodeEncodeError) as error:
        return Nacked(f"AMQP cannot carry it: {error}")
    return None


class _Unwritable(Exception):
    pass


def _check(message: Outgoing) -> None:
    properties = message.properties
    texts = (
        message.exchange, message.routing_key, properties.message_id, properties.type, properties.correlation_id,
        properties.reply_to, properties.app_id, properties.user_id, properties.content_type,
    )  # fmt: skip
    for text in texts:
        if text is not None and not (text.isascii() and len(text) <= SHORT_BYTES_MAX) and _bytes(text) > SHORT_BYTES_MAX:
            raise _Unwritable(f"{text[:32]!r}... is longer than {SHORT_BYTES_MAX} bytes")
    if properties.timestamp is not None and not 0 <= properties.timestamp <= TIMESTAMP_MAX:
        raise _Unwritable(f"the timestamp {properties.timestamp} is not 64 bits without a sign")
    expiration = properties.expiration
    if expiration is not None and not (_is_number(expiration) and int(expiration) <= EXPIRATION_MS_MAX):
        raise _Unwritable(f"the expiration {expiration[:20]!r} is not whole milliseconds up to {EXPIRATION_MS_MAX}")
    if properties.headers:
        if not COPIES_ELSEWHERE.isdisjoint(properties.headers):
            raise _Unwritable("the headers CC and BCC are RabbitMQ's own")
        if _table_length(properties.headers, DEPTH_MAX) > HEADERS_BYTES_MAX:
            raise _Unwritable(f"the headers are longer than {HEADERS_BYTES_MAX} bytes")


def _table_length(table: Mapping[Any, Any], depth: int) -> int:
    length = 5
    for name, value in table.items():
        if not isinstance(name, str) or (name_length := _bytes(name)) > SHORT_BYTES_MAX:
            raise _Unwritable(f"the header name {str(name)[:32]!r} is no text of at most {SHORT_BYTES_MAX} bytes")
        length += 1 + name_length + _length(value, depth - 1)
    return length


def _length(value: object, depth: int) -> int:
    """Bytes of a header's value on the wire, with what announces it."""
    if isinstance(value, str):
        return 5 + _bytes(value)
    if value is None or isinstance(value, bool):
        return 2
    if isinstance(value, int):
        if WHOLE_MIN <= value <= WHOLE_MAX:
            return 9
        raise _Unwritable("a header's number is longer than 64 bits")
    if not depth:
        raise _Unwritable(f"headers are nested deeper than {DEPTH_MAX}")
    if isinstance(value, list):
        return 5 + sum(_length(each, depth - 1) for each in value)
    if isinstance(value, dict):
        return _table_length(value, depth)
    raise _Unwritable(f"a header of type {type(value).__name__}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= EXPIRATION_DIGITS_MAX


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
