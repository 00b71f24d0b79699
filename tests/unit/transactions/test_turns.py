"""Turns: whoever follows what is applied may be applied, in one go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventplat.messages.envelope import Envelope
from eventplat.transactions.turns import decide, in_turn

A, B = ("stock", "moved", "a"), ("stock", "moved", "b")


def event(seq: int, prev: int | None, key: str = "a") -> Envelope:
    return Envelope(id=f"{key}{seq}", type="stock.moved.v1", body=b"{}", correlation_id="", app_id="stock", key=key, stream="moved",
                    seq=seq, prev=prev)  # fmt: skip


def test_a_chain_is_applied_as_far_as_it_is_whole() -> None:
    waiting, reached = decide([event(1, None), event(2, 1), event(4, 3), event(5, 4), event(9, 7, "b")], {A: -1, B: 7}, horizon=0)

    assert waiting == ["a4", "a5"]
    assert reached == {A: 2, B: 9}


def test_a_late_event_is_applied_and_moves_nothing_back() -> None:
    assert decide([event(3, 2)], {A: 8}, horizon=0) == ([], {A: 8})


def test_what_follows_one_from_below_the_horizon_does_not_wait() -> None:
    assert decide([event(30, 19), event(31, 30)], {A: -1}, horizon=20) == ([], {A: 31})


def test_a_key_of_which_all_wait_is_not_touched() -> None:
    assert decide([event(4, 3)], {A: 2}, horizon=0) == (["a4"], {})


def test_held_events_are_due_with_those_that_they_wait_for() -> None:
    held: list[tuple[str, int, int | None]] = [("e3", 3, 2), ("e4", 4, 3), ("e5", 5, 4), ("e9", 9, 8)]

    assert in_turn(held, 2) == ["e3", "e4", "e5"]
    assert in_turn(held, 1) == []
    assert in_turn([*held[:3], ("e6", 6, None), held[3]], 1) == ["e6"]


NUMBERS = st.lists(st.tuples(st.integers(0, 20), st.one_of(st.none(), st.integers(0, 19))), max_size=8)


@given(NUMBERS, st.integers(-1, 20), st.integers(0, 20))
def test_one_by_one_it_comes_out_the_same(numbers: list[tuple[int, int | None]], last: int, horizon: int) -> None:
    events = [event(seq, prev) for seq, prev in sorted(dict(numbers).items())]

    waiting, reached = decide(events, {A: last}, horizon)

    alone, stands = [], last
    for each in events:
        held, moved = decide([each], {A: stands}, horizon)
        alone += held
        stands = moved.get(A, stands)
    assert waiting == alone
    assert reached.get(A, last) == stands
