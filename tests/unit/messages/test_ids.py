"""Ids: their layout, their order, and that a derived one never changes. Exact values: tests/conformance."""

from __future__ import annotations

import random
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventplat.messages.ids import created_us, derived_id, is_id, new_id

TIMES_US = st.integers(0, (1 << 48) * 1_000 - 1)
PARTS = st.lists(st.text(st.characters(exclude_characters="\x1f", exclude_categories=["Cs"])), min_size=1, max_size=4)


@given(TIMES_US, st.integers())
def test_a_new_id_is_a_uuid_of_version_7_at_its_millisecond(time_us: int, seed: int) -> None:
    made = uuid.UUID(new_id(time_us, random.Random(seed)))

    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert created_us(str(made)) == time_us - time_us % 1_000


@given(TIMES_US, PARTS)
def test_a_derived_id_is_a_uuid_of_version_8_at_its_millisecond(time_us: int, parts: list[str]) -> None:
    made = uuid.UUID(derived_id(time_us, *parts))

    assert (made.version, made.variant) == (8, uuid.RFC_4122)
    assert created_us(str(made)) == time_us - time_us % 1_000


@given(TIMES_US, TIMES_US, st.integers())
def test_ids_sort_by_time(one_us: int, other_us: int, seed: int) -> None:
    chance = random.Random(seed)
    one, other = new_id(one_us, chance), new_id(other_us, chance)

    if one_us // 1_000 != other_us // 1_000:
        assert (one < other) == (one_us < other_us)


@given(TIMES_US, PARTS, PARTS)
def test_derived_ids_are_equal_when_what_they_come_from_is(time_us: int, parts: list[str], others: list[str]) -> None:
    assert (derived_id(time_us, *parts) == derived_id(time_us, *others)) == (parts == others)


def test_all_of_the_chance_stands_in_an_id() -> None:
    none_and_one_bit_each = {new_id(0, _Bits(0)), *(new_id(0, _Bits(1 << place)) for place in range(74))}

    assert len(none_and_one_bit_each) == 75


def test_ten_thousand_ids_of_one_moment_differ() -> None:
    chance = random.Random(1)

    assert len({new_id(0, chance) for _ in range(10_000)}) == 10_000


@given(st.uuids())
def test_any_uuid_in_its_canonical_form_is_an_id(some: uuid.UUID) -> None:
    assert is_id(str(some))
    assert not is_id(some.hex)
    assert not is_id(f"{{{some}}}")
    assert is_id(str(some).upper()) == (str(some).upper() == str(some))


@given(st.text())
def test_no_text_breaks_the_question(text: str) -> None:
    assert is_id(text) in {True, False}


@pytest.mark.parametrize("text", ["", "0", "\u0660" * 32, "0" * 32, "0" * 1_000_000])  # an Arabic digit is one to int()
def test_what_merely_looks_like_one_is_no_id(text: str) -> None:
    assert not is_id(text)


class _Bits:
    def __init__(self, bits: int) -> None:
        self._bits = bits

    def getrandbits(self, k: int, /) -> int:
        return self._bits
