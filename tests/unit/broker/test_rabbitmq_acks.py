"""Acks: one frame for the contiguous prefix, single ones beyond it, and never too far."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventplat.broker.rabbitmq_acks import Acks


def delivered(count: int) -> Acks:
    acks = Acks()
    for tag in range(1, count + 1):
        acks.delivered(tag)
    return acks


def test_nothing_acked_is_nothing_to_send() -> None:
    assert delivered(3).take() == (0, [])


def test_a_contiguous_prefix_is_acked_in_one() -> None:
    acks = delivered(3)
    for tag in (2, 1, 3):
        acks.acked(tag)

    assert acks.take() == (3, [])


def test_what_is_done_beyond_a_gap_is_acked_by_itself() -> None:
    acks = delivered(5)
    for tag in (1, 2, 4):
        acks.acked(tag)

    assert acks.take() == (2, [4])


def test_the_prefix_goes_on_once_the_gap_is_closed() -> None:
    acks = delivered(3)
    acks.acked(1)
    acks.acked(3)
    assert acks.take() == (1, [3])

    acks.acked(2)

    assert acks.take() == (2, [])  # 3 was sent already
    assert acks.open == 0


def test_a_rejected_delivery_closes_the_gap_and_is_not_acked() -> None:
    acks = delivered(3)
    acks.rejected(1)
    acks.acked(2)
    acks.rejected(3)

    assert acks.take() == (2, [])
    assert acks.open == 0


def test_nothing_is_sent_for_rejections_alone() -> None:
    acks = delivered(2)
    acks.rejected(1)
    acks.rejected(2)

    assert acks.take() == (0, [])


def test_nothing_is_sent_twice() -> None:
    acks = delivered(2)
    acks.acked(1)
    acks.take()

    assert acks.take() == (0, [])


def test_open_counts_what_nobody_has_settled() -> None:
    acks = delivered(4)
    acks.acked(3)
    acks.rejected(1)
    assert acks.open == 2

    acks.take()

    assert acks.open == 2


def test_tags_may_have_gaps() -> None:
    acks = Acks()
    for tag in (1, 3, 7):
        acks.delivered(tag)
    acks.acked(1)
    acks.acked(3)

    assert acks.take() == (3, [])


@given(st.lists(st.tuples(st.integers(1, 12), st.sampled_from(["ack", "reject", "take"])), max_size=60))
def test_a_broker_that_is_told_so_forgets_exactly_what_was_acked(program: list[tuple[int, str]]) -> None:
    acks, unacked, open_ = delivered(12), set(range(1, 13)), set(range(1, 13))
    acked: set[int] = set()

    def send() -> None:
        prefix, single = acks.take()
        told = {tag for tag in unacked if tag <= prefix} | set(single)
        assert told <= acked
        unacked.difference_update(told)

    for tag, what in program:
        if what == "take":
            send()
        elif tag in open_:
            open_.discard(tag)
            if what == "ack":
                acked.add(tag)
                acks.acked(tag)
            else:
                unacked.discard(tag)
                acks.rejected(tag)
    send()

    assert unacked == open_
    assert acks.open == len(open_)
