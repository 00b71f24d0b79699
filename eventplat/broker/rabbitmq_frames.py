"""Frames: a publish, its ack and a delivery as bytes, in one pass. Pure.

Stock pika builds three objects and some thirty pieces for a message it sends, and takes as many steps for one it
receives: two thirds of the processor time of both. What eventplat sends and receives is plain, so here the bytes are
written and read directly, and what stays the same from message to message (route, type, sender, header names) is
encoded once. Whatever is not plain (a nested header, text that is no UTF-8, half a message) is `None` or left in
place: pika does it, with the same result.

    method frame   1 | channel | size | 60 40 … (publish) or 60 60 … (deliver) | CE
                   1 | channel | 13   | 60 80 | tag | bits (ack) | CE
    header frame   2 | channel | size | 60 0 | body size | flags | properties   | CE
    body frames    3 | channel | size | bytes                                   | CE

Source: AMQP 0-9-1, 2.3.5, 4.2.3-4.2.6; RabbitMQ, "AMQP 0-9-1 Errata", field types.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Container
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple

from pika.data import decode_value
from pika.exceptions import AMQPError

from eventplat.broker.rabbitmq_properties import COUNT_HEADER
from eventplat.broker.transport import Outgoing
from eventplat.messages.codec import Properties

METHOD, HEADER, BODY, END = 1, 2, 3, b"\xce"
PUBLISH, DELIVER, ACK = b"\x00\x3c\x00\x28", b"\x00\x3c\x00\x3c", b"\x00\x3c\x00\x50"
ROUTES, WORDS = 4_096, 8_192     # remembered

_FRAME = Struct(">BHI")
_HEADER = Struct(">BHIHHQH")
_ARRIVING = Struct(">BHIHHQH")
_ACK = Struct(">BHI4sQBB")
_LONG_TEXT = Struct(">BI")
_WHOLE, _WIDE = Struct(">Bi"), Struct(">Bq")
_NUMBER, _SIZE = Struct(">Q"), Struct(">I")
_FRAME_BYTES = 8                 # around each payload
_PERSISTENT, _TRANSIENT = b"\x02", b"\x01"

CONTENT_TYPE, ENCODING, HEADERS, MODE, PRIORITY = 1 << 15, 1 << 14, 1 << 13, 1 << 12, 1 << 11
CORRELATION_ID, REPLY_TO, EXPIRATION, MESSAGE_ID, TIMESTAMP = 1 << 10, 1 << 9, 1 << 8, 1 << 7, 1 << 6
TYPE, USER_ID, APP_ID = 1 << 5, 1 << 4, 1 << 3
_UNUSUAL = ENCODING | PRIORITY | 0b111


class Arrived(NamedTuple):
    """One message as it was delivered."""

    channel: int
    consumer_tag: bytes
    delivery_tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    properties: Properties           # without the headers that brokers add
    deliveries: int | None           # how often it was delivered before, where the queue counts
    body: bytes


class _NotPlain(Exception):
    """Pika reads it."""


# --- sending --------------------------------------------------------------------------------------


def to_frames(channel: int, message: Outgoing, *, body_max: int) -> bytes | None:
    """`message` as pika would write it on `channel`; None where it is not plain.

    Args:
        body_max: Bytes of body in one frame.
    """
    properties, body = message.properties, message.body
    headers = _headers(properties.headers)
    if headers is None:
        return None
    flags, parts = MODE, []
    if properties.content_type is not None:
        flags |= CONTENT_TYPE
        parts.append(_word(properties.content_type))
    if headers:
        flags |= HEADERS
        parts += (_SIZE.pack(len(headers)), headers)
    parts.append(_PERSISTENT if message.persistent else _TRANSIENT)
    for flag, name, encode in _FIELDS:
        value = getattr(properties, name)
        if value is not None:
            flags |= flag
            parts.append(encode(value))
    size = len(body)
    plain = b"".join(parts)
    head = _HEADER.pack(HEADER, channel, 14 + len(plain), 60, 0, size, flags)
    route = _route(channel, message.exchange, message.routing_key, message.mandatory)
    if not size:
        return b"".join((route, head, plain, END))
    if size <= body_max:
        return b"".join((route, head, plain, END, _FRAME.pack(BODY, channel, size), body, END))
    pieces = [body[start : start + body_max] for start in range(0, size, body_max)]
    bodies = (part for piece in pieces for part in (_FRAME.pack(BODY, channel, len(piece)), piece, END))
    return b"".join((route, head, plain, END, *bodies))


def _headers(headers: dict[str, Any]) -> bytes | None:
    """The table's content; None where a value is neither text nor a number. Brokers' own never pass (`rabbitmq_properties`)."""
    parts: list[bytes] = []
    for name, value in headers.items():
        if name.startswith("x-"):
            continue
        if type(value) is str:
            text = value.encode()
            parts += (_word(name), _LONG_TEXT.pack(0x53, len(text)), text)
        elif type(value) is int:
            is_short = -0x8000_0000 <= value < 0x8000_0000
            parts += (_word(name), (_WHOLE if is_short else _WIDE).pack(0x49 if is_short else 0x6C, value))
        else:
            return None
    return b"".join(parts)


@lru_cache(ROUTES)
def _route(channel: int, exchange: str, routing_key: str, mandatory: bool) -> bytes:
    payload = b"".join((PUBLISH, b"\x00\x00", _short(exchange), _short(routing_key), b"\x01" if mandatory else b"\x00"))
    return b"".join((_FRAME.pack(METHOD, channel, len(payload)), payload, END))


def _short(text: str) -> bytes:
    encoded = text.encode()
    return bytes((len(encoded),)) + encoded      # ValueError over 255, which `refusal` lets nobody see


_word = lru_cache(WORDS)(_short)                 # of what comes again and again
_FIELDS: tuple[tuple[int, str, Callable[[Any], bytes]], ...] = (
    (CORRELATION_ID, "correlation_id", _short), (REPLY_TO, "reply_to", _word), (EXPIRATION, "expiration", _short),
    (MESSAGE_ID, "message_id", _short), (TIMESTAMP, "timestamp", _NUMBER.pack), (TYPE, "type", _word), (USER_ID, "user_id", _word),
    (APP_ID, "app_id", _word),
)  # fmt: skip


# --- receiving ------------------------------------------------------------------------------------


def read_deliveries(buffer: bytes, known: Container[tuple[int, bytes]]) -> tuple[list[Arrived], int]:
    """The whole, plain deliveries at the beginning of `buffer`, and how many bytes they are.

    Args:
        known: (channel, consumer tag) of the consumers whose deliveries are read here; another's is left in place.
    """
    arrived: list[Arrived] = []
    at, end = 0, len(buffer)
    try:
        while at + 11 <= end and buffer[at] == METHOD and buffer[at + 7 : at + 11] == DELIVER:
            found = _read(buffer, at, end, known)
            if found is None:
                break
            one, at = found
            arrived.append(one)
    except (_NotPlain, UnicodeDecodeError, IndexError, struct.error):
        pass  # pika reads it, or says what is wrong with it
    return arrived, at


def read_acks(buffer: bytes, known: Container[int]) -> tuple[list[tuple[int, int, bool]], int]:
    """The whole acks of what was published at the beginning of `buffer`: channel, tag and `multiple`; and how many bytes they are.

    Args:
        known: The channels whose acks are read here; another's is left in place.
    """
    acks: list[tuple[int, int, bool]] = []
    at, last = 0, len(buffer) - _ACK.size
    while at <= last:
        kind, channel, _, name, tag, bits, end = _ACK.unpack_from(buffer, at)
        if kind != METHOD or name != ACK or end != END[0] or channel not in known:
            break
        acks.append((channel, tag, bool(bits & 1)))
        at += _ACK.size
    return acks, at


def _read(buffer: bytes, at: int, end: int, known: Container[tuple[int, bytes]]) -> tuple[Arrived, int] | None:
    _, channel, size = _FRAME.unpack_from(buffer, at)
    head = at + _FRAME_BYTES + size
    if head + _ARRIVING.size > end:
        return None
    kind, same, header_size, _, _, body_size, flags = _ARRIVING.unpack_from(buffer, head)
    place = head + _FRAME_BYTES + header_size
    if kind != HEADER or same != channel or flags & _UNUSUAL or place > end:
        return None
    body, after = _body(buffer, place, end, channel, body_size)
    if body is None:
        return None
    tag_end = at + 12 + buffer[at + 11]
    tag = buffer[at + 12 : tag_end]
    if (channel, tag) not in known:
        return None
    exchange, key = _address(buffer[tag_end + 9 : head - 1])
    properties, count = _properties(buffer, head + _ARRIVING.size, flags)
    delivery_tag = _NUMBER.unpack_from(buffer, tag_end)[0]
    return Arrived(channel, tag, delivery_tag, bool(buffer[tag_end + 8] & 1), exchange, key, properties, count, body), after


def _body(buffer: bytes, at: int, end: int, channel: int, size: int) -> tuple[bytes | None, int]:
    """The body whose first frame is at `at`, and where it ends; None where it is not all there."""
    pieces = []
    while size:
        if at + 7 > end:
            return None, at
        kind, same, length = _FRAME.unpack_from(buffer, at)
        after = at + _FRAME_BYTES + length
        if kind != BODY or same != channel or after > end:
            return None, at
        pieces.append(buffer[at + 7 : after - 1])
        size -= length
        at = after
    return pieces[0] if len(pieces) == 1 else b"".join(pieces), at


def _properties(buffer: bytes, at: int, flags: int) -> tuple[Properties, int | None]:
    found, count = Properties(), None
    if flags & CONTENT_TYPE:
        at, raw = _piece(buffer, at)
        found.content_type = _known(raw)
    if flags & HEADERS:
        found.headers, count, at = _table(buffer, at)
    if flags & MODE:
        at += 1
    if flags & CORRELATION_ID:
        at, raw = _piece(buffer, at)
        found.correlation_id = raw.decode()
    if flags & REPLY_TO:
        at, raw = _piece(buffer, at)
        found.reply_to = _known(raw)
    if flags & EXPIRATION:
        at, raw = _piece(buffer, at)
        found.expiration = raw.decode()
    if flags & MESSAGE_ID:
        at, raw = _piece(buffer, at)
        found.message_id = raw.decode()
    if flags & TIMESTAMP:
        found.timestamp = _NUMBER.unpack_from(buffer, at)[0]
        at += 8
    if flags & TYPE:
        at, raw = _piece(buffer, at)
        found.type = _known(raw)
    if flags & USER_ID:
        at, raw = _piece(buffer, at)
        found.user_id = _known(raw)
    if flags & APP_ID:
        at, raw = _piece(buffer, at)
        found.app_id = _known(raw)
    return found, count


def _table(buffer: bytes, at: int) -> tuple[dict[str, Any], int | None, int]:
    """The headers without the brokers' own, the count among those, and where the table ends."""
    end = at + 4 + _SIZE.unpack_from(buffer, at)[0]
    at += 4
    found: dict[str, Any] = {}
    count = None
    while at < end:
        at, raw = _piece(buffer, at)
        name = _known(raw)
        if buffer[at] == 0x53:
            text = at + 5
            at = text + _SIZE.unpack_from(buffer, at + 1)[0]
            value: Any = buffer[text:at].decode()
        else:
            try:
                value, at = decode_value(buffer, at)
            except (AMQPError, ValueError, OverflowError):
                raise _NotPlain from None
        if not name.startswith("x-"):
            found[name] = value
        elif name == COUNT_HEADER and isinstance(value, int):
            count = int(value)
    return found, count, at


def _piece(buffer: bytes, at: int) -> tuple[int, bytes]:
    after = at + 1 + buffer[at]
    return after, buffer[at + 1 : after]


@lru_cache(ROUTES)
def _address(raw: bytes) -> tuple[str, str]:
    """Exchange and routing key, two short strings."""
    middle = 1 + raw[0]
    return raw[1:middle].decode(), raw[middle + 1 : middle + 1 + raw[middle]].decode()


@lru_cache(WORDS)
def _known(raw: bytes) -> str:
    return raw.decode()
