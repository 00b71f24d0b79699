"""The envelope: when it was created, where it lives, whether it is too late."""

from __future__ import annotations

from typing import Any

import pytest

from eventplat.hashing import bucket_of
from eventplat.messages.envelope import Envelope
from eventplat.messages.ids import derived_id

TIME_US = 1_893_499_200_123_000
ID = derived_id(TIME_US, "one")


def envelope(**more: Any) -> Envelope:
    return Envelope(id=ID, type="shop.order-placed.v1", body=b"{}", correlation_id=ID, **more)


def test_its_id_says_when_it_was_created() -> None:
    assert envelope().created_us == TIME_US


@pytest.mark.parametrize("key", ["o-1", "", "größe"])
def test_it_lives_in_the_bucket_of_its_key(key: str) -> None:
    assert envelope(key=key).bucket == bucket_of(key)


def test_without_a_key_it_lives_in_the_bucket_of_its_id() -> None:
    assert envelope().bucket == bucket_of(ID)


@pytest.mark.parametrize(
    ("deadline_ms", "now_us", "has_expired"),
    [(None, 1 << 60, False), (1_000, 999_999, False), (1_000, 1_000_000, True), (1_000, 1_000_001, True), (0, 0, True), (-1, 0, True)],
)
def test_it_has_expired_from_its_deadline_on(deadline_ms: int | None, now_us: int, has_expired: bool) -> None:
    assert envelope(deadline_ms=deadline_ms).has_expired(now_us) is has_expired
