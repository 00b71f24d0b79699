"""Partitions as values: every lane has one queue, and a queue is the same whatever the count."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventplat.broker.partitions import PARTITIONS_MAX, lanes_of, partition_name, partitions
from eventplat.broker.topology import Binding, Queue
from eventplat.hashing import LANES, bucket_of, lane_of

COUNTS = st.integers(1, PARTITIONS_MAX)
BY_STREAM, DEAD = Binding("t.events", "stock.moved.*.*.*"), Binding("t.dead", "mail")
WHOLE = Queue("t.mail.on-moved", bindings=(BY_STREAM,), single_active=True, dead_letter=DEAD)


@given(COUNTS)
def test_every_lane_has_one_partition_and_a_message_without_a_key_the_first(count: int) -> None:
    lanes = [lane for number in range(count) for lane in lanes_of(number, count)]

    assert sorted(lanes) == sorted([*map(str, range(LANES)), "-"])
    assert "-" in lanes_of(0, count)
    assert all(lanes_of(number, count) for number in range(count))


@given(st.integers(1, PARTITIONS_MAX // 2))
def test_with_twice_as_many_no_lane_moves_but_to_a_new_partition(count: int) -> None:
    for number in range(count):
        assert set(lanes_of(number, count)) == {*lanes_of(number, 2 * count), *lanes_of(number + count, 2 * count)}


@settings(max_examples=25, deadline=None)
@given(COUNTS, COUNTS)
def test_one_count_takes_away_whatever_another_may_have_bound_and_binds_each_lane_once(before: int, after: int) -> None:
    queues = {queue.name: queue for queue in partitions(WHOLE, after, max(before, after))}
    bound = {(name, binding) for name, queue in queues.items() for binding in queue.bindings}
    for queue in partitions(WHOLE, before, max(before, after)):
        bound |= {(queue.name, binding) for binding in queue.bindings} - {(queue.name, binding) for binding in queues[queue.name].unbound}

    assert bound == {(name, binding) for name, queue in queues.items() for binding in queue.bindings}
    words = [binding.routing_key.rpartition(".")[2] for _, binding in bound]
    assert words == ["*"] if after == 1 else sorted(words) == sorted([*map(str, range(LANES)), "-"])


@given(COUNTS)
def test_a_partition_is_the_same_queue_in_every_release(count: int) -> None:
    for number, queue in enumerate(partitions(WHOLE, count)):
        assert queue.name == partition_name(WHOLE.name, number)
        assert queue.arguments == WHOLE.arguments


def test_one_partition_that_was_never_more_is_the_queue_itself() -> None:
    assert partitions(WHOLE, 1) == (WHOLE,)


def test_the_names_and_lanes_of_partitions_do_not_change() -> None:
    assert [queue.name for queue in partitions(WHOLE, 3)] == ["t.mail.on-moved", "t.mail.on-moved.p01", "t.mail.on-moved.p02"]
    assert lanes_of(5, 32) == ("5", "37")
    assert lanes_of(0, 32) == ("0", "32", "-")
    assert [lane_of(bucket_of(key)) for key in ("o-1", "sku-7")] == [44, 6]


@pytest.mark.parametrize("number", [4, 63])
def test_what_is_above_the_count_has_no_lanes(number: int) -> None:
    assert lanes_of(number, 4) == ()
    assert all(queue.bindings == () for queue in partitions(WHOLE, 4, 64)[4:])
