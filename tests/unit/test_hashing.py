"""Hashing: every key has one bucket and one lane, evenly. Exact values: tests/conformance."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from eventplat.hashing import BUCKETS, LANES, body_hash, bucket_of, bucket_of_once, lane_of
from eventplat.messages.envelope import Envelope
from eventplat.messages.ids import new_id

KEYS = st.text(st.characters(exclude_categories=["Cs"]))


@given(KEYS)
def test_every_key_has_a_bucket_and_a_lane(key: str) -> None:
    assert 0 <= bucket_of(key) < BUCKETS
    assert 0 <= lane_of(bucket_of(key)) < LANES


def test_every_lane_is_as_many_whole_buckets_side_by_side() -> None:
    lanes = [lane_of(bucket) for bucket in range(BUCKETS)]

    assert lanes == sorted(lanes)
    assert set(Counter(lanes).values()) == {BUCKETS // LANES}


def test_keys_that_count_up_fall_into_all_buckets_alike() -> None:
    counts = Counter(bucket_of(f"order-{number}") for number in range(102_400))

    assert len(counts) == BUCKETS
    assert min(counts.values()) > 50
    assert max(counts.values()) < 150


@given(st.binary(), st.binary())
def test_a_body_is_told_from_another_by_its_hash(one: bytes, other: bytes) -> None:
    assert len(body_hash(one)) == 16
    assert (body_hash(one) == body_hash(other)) == (one == other)


def test_what_hardly_comes_again_is_not_remembered() -> None:
    bucket_of.cache_clear()
    message = Envelope(id=new_id(1_000_000, Random(1)), type="a.b.v1", body=b"{}", correlation_id="c")

    assert message.bucket == bucket_of_once(message.id)
    assert bucket_of.cache_info().currsize == 0
