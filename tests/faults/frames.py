"""Frames: AMQP 0-9-1 as it passes by, as far as a fault needs to understand it. Pure.

Source: AMQP 0-9-1, 2.3 wire format, 4.2 frames; basic.ack, basic.deliver, content header.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

METHOD, HEADER = 1, 2
BASIC = 60
DELIVER, ACK = 60, 80
HEAD_BYTES, END_BYTES = 7, 1

_TEXTS = ((15, "content_type"), (14, "content_encoding"))     # what stands before the message id, by its flag
_AFTER_HEADERS = ((10, "correlation_id"), (9, "reply_to"), (8, "expiration"))


class Frames:
    """Cuts a stream of bytes into whole frames; what has not come whole waits."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that are whole now, head and end included."""
        data, start = self._rest + data, 0
        while len(data) - start >= HEAD_BYTES:
            (size,) = struct.unpack_from(">I", data, start + 3)
            end = start + HEAD_BYTES + size + END_BYTES
            if end > len(data):
                break
            yield data[start:end]
            start = end
        self._rest = data[start:]


def channel_of(frame: bytes) -> int:
    return int.from_bytes(frame[1:3], "big")


def is_confirm(frame: bytes) -> bool:
    """From a broker: basic.ack, which settles what was published."""
    return frame[0] == METHOD and frame[7:11] == struct.pack(">HH", BASIC, ACK)


def consumer_tag(frame: bytes) -> str | None:
    """Whose delivery begins here; None where none does."""
    if frame[0] != METHOD or frame[7:11] != struct.pack(">HH", BASIC, DELIVER):
        return None
    return _text(frame, 11)[0]


def message_id(frame: bytes) -> str | None:
    """The message id in a content header; None in any other frame, and where it has none."""
    if frame[0] != HEADER:
        return None
    (flags,) = struct.unpack_from(">H", frame, 19)
    at = 21
    for bit, _ in _TEXTS:
        if flags >> bit & 1:
            at = _text(frame, at)[1]
    if flags >> 13 & 1:                                       # headers: a table with its length in front
        at += 4 + int.from_bytes(frame[at : at + 4], "big")
    at += (flags >> 12 & 1) + (flags >> 11 & 1)               # delivery mode, priority
    for bit, _ in _AFTER_HEADERS:
        if flags >> bit & 1:
            at = _text(frame, at)[1]
    return _text(frame, at)[0] if flags >> 7 & 1 else None


def _text(frame: bytes, at: int) -> tuple[str, int]:
    """A short string and where it ends."""
    end = at + 1 + frame[at]
    return frame[at + 1 : end].decode(), end
