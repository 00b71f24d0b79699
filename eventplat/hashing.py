"""One hash for order and shards: a key's bucket (10 bits) and lane (6 bits). Pure.

A bucket says where a key's rows live, a lane which partition its messages take; the lane is the
bucket's upper bits, so that a partition never spans two shards' halves of one bucket.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

BUCKETS = 1_024
LANES = 64
KEYS = 8_192    # remembered


@lru_cache(KEYS)
def bucket_of(key: str) -> int:
    """The bucket of `key`, 0..1023: the first 10 bits of BLAKE2b over its UTF-8."""
    return bucket_of_once(key)


def bucket_of_once(text: str) -> int:
    """As `bucket_of`, of what hardly comes again, as an id: it would drive the keys out, and memory up."""
    digest = blake2b(text.encode(), digest_size=2).digest()
    return int.from_bytes(digest, "big") >> 6


def lane_of(bucket: int) -> int:
    """The lane of a bucket, 0..63."""
    return bucket >> 4


def body_hash(body: bytes) -> bytes:
    """16 bytes that tell one message body from another under the same id."""
    return blake2b(body, digest_size=16).digest()
