"""Message ids: UUIDv7 for what is new, UUIDv8 for what is derived. Pure.

A derived id (a saga's command, a command under an Idempotency-Key) is a recorded time and a hash, so
that every copy of a message carries the same id and the same creation time, whoever sends it again.

Source: RFC 9562, 5.7 and 5.8.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Protocol

_VARIANT = 0b10 << 62
_CANONICAL = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch


class Chance(Protocol):
    """Where randomness comes from: `random.SystemRandom()`, or a seeded `random.Random` in a simulation."""

    def getrandbits(self, k: int, /) -> int: ...


def new_id(time_us: int, chance: Chance) -> str:
    """A UUIDv7: 48 bits of milliseconds, then 74 random bits."""
    bits = chance.getrandbits(74)
    return _text(((time_us // 1_000) & 0xFFFF_FFFF_FFFF) << 80 | 7 << 76 | (bits >> 62) << 64 | _VARIANT | bits & (1 << 62) - 1)


def derived_id(time_us: int, *parts: str) -> str:
    """A UUIDv8: 48 bits of the recorded time in milliseconds, then 74 bits of a hash of `parts`."""
    digest = blake2b("\x1f".join(parts).encode(), digest_size=10).digest()
    bits = int.from_bytes(digest, "big") >> 6
    return _text(((time_us // 1_000) & 0xFFFF_FFFF_FFFF) << 80 | 8 << 76 | (bits >> 62) << 64 | _VARIANT | bits & (1 << 62) - 1)


def created_us(message_id: str) -> int:
    """The creation time that the id carries, in microseconds since 1970."""
    return int(message_id[:8] + message_id[9:13], 16) * 1_000


def lowest_id(time_us: int) -> str:
    """Sorts at or before every id made from `time_us` on, and after those made a millisecond earlier."""
    return _text((max(time_us // 1_000, 0) & 0xFFFF_FFFF_FFFF) << 80)


def is_derived(message_id: str) -> bool:
    """Whether it is a derived id, which may come again; a new one cannot."""
    return message_id[14] == "8"


def is_id(text: str) -> bool:
    """Whether `text` is a UUID in its canonical form."""
    return _CANONICAL(text) is not None


def _text(value: int) -> str:
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
