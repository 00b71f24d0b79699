"""The codec: an envelope to AMQP properties and back, with limits on size and depth. Pure.

Golden vectors for this mapping stand in tests/conformance; a change there is a change of the protocol.
Nothing here trusts what it reads: whatever is wrong with bytes or headers is a `Malformed` that says what.

Next: broker.topology
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from eventplat.errors import Malformed, TooLarge
from eventplat.messages.envelope import Envelope
from eventplat.messages.ids import is_id

CONTENT_TYPE = "application/json"
BODY_BYTES_MAX = 1_048_576
DEPTH_MAX = 32
EXPIRATION_MS_MAX = 4_294_967_295   # what RabbitMQ takes, 49 days; the deadline itself is a header
HEADER_BYTES_MAX = 8_192

Header = str | int


@dataclass(slots=True)
class Properties:
    """AMQP 0-9-1 basic properties, as far as eventplat uses them; the same on every transport."""

    message_id: str | None = None
    type: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    app_id: str | None = None
    user_id: str | None = None
    timestamp: int | None = None       # seconds since 1970, as AMQP has it
    content_type: str | None = None
    expiration: str | None = None      # milliseconds, as text, as AMQP has it
    headers: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Foreign(Envelope):
    """A message in another system's form: it has properties of its own, and travels and is kept with those."""

    properties: Properties


_TEXT_HEADERS = ("traceparent", "causation", "key", "stream", "undoes", "grant")
_NUMBER_HEADERS = ("seq", "prev")
_OWN_HEADERS = (*_TEXT_HEADERS, *_NUMBER_HEADERS)
_HEADERS: dict[str, tuple[str, type[str] | type[int]]] = {
    **{name: (name, str) for name in _TEXT_HEADERS},
    **{name: (name, int) for name in _NUMBER_HEADERS},
    "deadline": ("deadline_ms", int),
    "v": ("v", int),
}
_ID_HEADERS = frozenset({"causation", "undoes"})
_TEXT_PROPERTIES = ("type", "correlation_id", "reply_to", "app_id", "user_id")


def to_properties(envelope: Envelope, *, expiration_ms: int | None = None) -> Properties:
    """The properties of `envelope`: headers only for what is there. Those of a foreign message are its own.

    Args:
        expiration_ms: Milliseconds after which the broker may drop it (queries only).
    """
    if isinstance(envelope, Foreign):
        return envelope.properties
    headers: dict[str, Any] = {
        name: value for name in _OWN_HEADERS if (value := getattr(envelope, name)) is not None
    }
    if envelope.deadline_ms is not None:
        headers["deadline"] = envelope.deadline_ms
    if envelope.v != 1:
        headers["v"] = envelope.v
    return Properties(
        message_id=envelope.id,
        type=envelope.type,
        correlation_id=envelope.correlation_id,
        reply_to=envelope.reply_to,
        app_id=envelope.app_id,
        user_id=envelope.user_id,
        timestamp=envelope.created_us // 1_000_000,
        content_type=CONTENT_TYPE,
        expiration=None if expiration_ms is None else str(min(max(expiration_ms, 0), EXPIRATION_MS_MAX)),
        headers=headers,
    )


def to_envelope(properties: Properties, body: bytes) -> Envelope:
    """The envelope that `properties` and `body` spell.

    Raises:
        Malformed: No id or type, an id that is no UUID, a header of the wrong type, another content type, a text
            that a database cannot hold.
        TooLarge: A body over `BODY_BYTES_MAX` or deeper than `DEPTH_MAX`, or headers over `HEADER_BYTES_MAX`.
    """
    if not properties.message_id or not is_id(properties.message_id):
        raise Malformed(f"message_id is {properties.message_id!r}, not a UUID")
    if not properties.type:
        raise Malformed("the type property is missing")
    if not _is_plain(f"{properties.type}{properties.correlation_id}{properties.reply_to}{properties.app_id}{properties.user_id}"):
        for name in _TEXT_PROPERTIES:  # seldom: which one it is
            _check_text(f"{name} property", getattr(properties, name))
    if properties.content_type != CONTENT_TYPE:
        raise Malformed(f"content_type is {properties.content_type!r}, not {CONTENT_TYPE!r}")
    check_size(body)
    return Envelope(
        id=properties.message_id,
        type=properties.type,
        body=body,
        correlation_id=properties.correlation_id or properties.message_id,
        reply_to=properties.reply_to,
        app_id=properties.app_id,
        user_id=properties.user_id,
        **_read_headers(properties.headers or {}),
    )


def check_size(body: bytes) -> None:
    """Refuse a body that is too long or nested too deep.

    Raises:
        TooLarge: With the limit and what was found.
    """
    if len(body) > BODY_BYTES_MAX:
        raise TooLarge(f"the body has {len(body):,} bytes, the limit is {BODY_BYTES_MAX:,}")
    if body.count(b"{") + body.count(b"[") > DEPTH_MAX and (depth := _depth(body)) > DEPTH_MAX:
        raise TooLarge(f"the body is nested {depth} levels deep, the limit is {DEPTH_MAX}")


def check_key(key: str | None) -> None:
    """Refuse a key that no receiver would take.

    Raises:
        Malformed: It holds U+0000 or half a surrogate pair.
        TooLarge: Over `HEADER_BYTES_MAX`.
    """
    _check_text("header key", key)


def parse(adapter: TypeAdapter[Any], body: bytes) -> Any:
    """`body` as the adapter's type; unknown fields are ignored.

    Raises:
        Malformed: Not JSON, or not of that type, with the first reasons.
    """
    try:
        return adapter.validate_json(body)
    except ValidationError as error:
        reasons = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors(include_url=False)[:3]
        )
        raise Malformed(reasons) from None
    except (RecursionError, ValueError) as error:
        raise Malformed(f"not JSON that can be read: {error}") from None


def _read_headers(headers: dict[str, Any]) -> dict[str, Any]:
    """Ours among `headers`, as the envelope's fields; what is not there is left out."""
    found: dict[str, Any] = {}
    for name, value in headers.items():
        expected = _HEADERS.get(name)
        if expected is None or value is None:
            continue
        field_name, kind = expected
        if isinstance(value, bool) or not isinstance(value, kind):
            raise Malformed(f"the header {name} is a {type(value).__name__}, not a {kind.__name__}")
        if isinstance(value, str) and not _is_plain(value):
            _check_text(f"header {name}", value)
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise Malformed(f"the header {name} is {value}, over 64 bits")
        if name in _ID_HEADERS and not is_id(value):
            raise Malformed(f"the header {name} is {value!r}, not a UUID")
        found[field_name] = value
    if not found.get("v", 1):
        del found["v"]
    return found


def _is_plain(text: str) -> bool:
    """Whether `text` is surely fine; most is, and this is quick."""
    return text.isascii() and len(text) <= HEADER_BYTES_MAX and "\0" not in text


def _check_text(what: str, text: str | None) -> None:
    if text is None:
        return
    if "\0" in text:
        raise Malformed(f"the {what} holds U+0000, which PostgreSQL does not take")
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        raise Malformed(f"the {what} holds half a surrogate pair") from None
    if length > HEADER_BYTES_MAX:
        raise TooLarge(f"the {what} has {length:,} bytes, the limit is {HEADER_BYTES_MAX:,}")


def _depth(body: bytes) -> int:
    depth = deepest = 0
    in_text = escaped = False
    for byte in body:
        if in_text:
            in_text, escaped = (escaped or byte != 0x22), (not escaped and byte == 0x5C)
        elif byte == 0x22:
            in_text = True
        elif byte in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"}]":
            depth -= 1
    return deepest
