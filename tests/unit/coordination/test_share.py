"""Shares: even, complete, and with as little moving as can be, whoever looks first."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from eventplat.coordination.share import share

MEMBERS = st.lists(st.text("abcdef", min_size=1, max_size=3), min_size=1, max_size=9, unique=True)
PARTS = st.integers(1, 24)


@settings(max_examples=40, deadline=None)
@given(PARTS, MEMBERS, st.data())
def test_every_part_belongs_to_a_member_and_no_two_members_differ_by_more_than_one(
    count: int, members: list[str], data: st.DataObject
) -> None:
    holders = data.draw(st.dictionaries(st.integers(0, count - 1), st.sampled_from([*members, "gone"])))

    shares = share(range(count), members, holders)

    assert shares.keys() == set(range(count))
    sizes = Counter(shares.values())
    assert all(count // len(members) <= sizes[member] <= -(-count // len(members)) for member in members)


@settings(max_examples=40, deadline=None)
@given(PARTS, MEMBERS, st.data())
def test_only_what_is_over_a_quota_moves(count: int, members: list[str], data: st.DataObject) -> None:
    holders = data.draw(st.dictionaries(st.integers(0, count - 1), st.sampled_from(members)))

    shares = share(range(count), members, holders)

    had = Counter(holders.values())
    least, more = divmod(count, len(members))
    above = sorted((had[member] - least for member in members if had[member] > least), reverse=True)
    over = sum(extra - (place < more) for place, extra in enumerate(above))
    assert sum(shares[part] != holder for part, holder in holders.items()) == over


@settings(max_examples=40, deadline=None)
@given(PARTS, MEMBERS, MEMBERS, st.randoms(use_true_random=False))
def test_members_that_act_one_by_one_on_what_they_see_come_to_rest_evenly_spread(
    count: int, before: list[str], after: list[str], chance: object
) -> None:
    holders = share(range(count), before, {})

    for _ in range(3):  # a turn to let go, one to take, one for who took less than it may since it came early
        order = list(after)
        chance.shuffle(order)  # type: ignore[attr-defined]
        for member in order:
            live = {part: holder for part, holder in holders.items() if holder in after}
            mine = {part for part, to in share(range(count), after, live).items() if to == member}
            holders = {part: holder for part, holder in live.items() if holder != member or part in mine}
            holders |= {part: member for part in mine if part not in holders}

    assert share(range(count), after, holders) == holders


def test_without_members_nothing_belongs_to_anybody() -> None:
    assert share(range(4), (), {0: "gone"}) == {}
