"""The prefetch follows the handling time, in few steps."""

from __future__ import annotations

import pytest

from eventplat.broker.prefetch import SAMPLES, STAYS_S, Prefetch


def measured(prefetch: Prefetch, seconds: float, *, deliveries: int = 1) -> Prefetch:
    for _ in range(4 * SAMPLES):
        prefetch.handled(deliveries, seconds)
    return prefetch


@pytest.mark.parametrize(("slots", "seconds", "wanted"), [
    (1, 1.0, 2),          # one that runs, and the next
    (1, 0.08, 3),
    (1, 0.02, 6),
    (1, 0.001, 64),       # as many as are configured
    (10, 0.1, 20),
    (10, 5.0, 11),
    (10, 0.0, 64),        # on a clock that stands
])  # fmt: skip
def test_it_is_what_runs_and_a_tenth_of_a_second_of_work(slots: int, seconds: float, wanted: int) -> None:
    assert measured(Prefetch(slots=slots, batch=1, most=64), seconds).wanted == wanted


def test_a_batch_that_runs_is_held_whole_beside_what_comes_next() -> None:
    assert measured(Prefetch(slots=1, batch=50, most=100), 0.5, deliveries=50).wanted == 60
    assert measured(Prefetch(slots=1, batch=50, most=100), 0.05, deliveries=50).wanted == 100


def test_it_begins_small_and_never_below_what_runs() -> None:
    assert Prefetch(slots=1, batch=1, most=64).current == 2
    assert Prefetch(slots=10, batch=50, most=64).current == 500


def test_nothing_changes_before_enough_was_handled_or_soon_after_a_change() -> None:
    prefetch = Prefetch(slots=1, batch=1, most=64)
    prefetch.handled(SAMPLES - 1, 0.001)
    assert prefetch.change(0.0) is None
    prefetch.handled(1, 0.001)
    assert prefetch.change(0.0) == 64
    measured(prefetch, 1.0)
    assert prefetch.change(STAYS_S - 0.1) is None
    assert prefetch.change(STAYS_S) == 2
    assert prefetch.current == 2


def test_less_than_a_factor_of_two_is_no_reason_to_change() -> None:
    prefetch = measured(Prefetch(slots=10, batch=1, most=64), 0.06)
    assert (prefetch.current, prefetch.wanted) == (20, 27)
    assert prefetch.change(0.0) is None
