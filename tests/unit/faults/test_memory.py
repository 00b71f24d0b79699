"""The memory campaign sees a leak, and no leak where a bounded buffer fills."""

from __future__ import annotations

import pytest

from tests.faults.memory import Sample, judge, trend

DOWN = (150.0, 450.0)


def samples(during: float, after: float) -> list[Sample]:
    """100 MB before; then 30 more at once and `during` a minute while the broker is down; `after` in the end."""
    times = [5.0 * number for number in range(120)]
    return [
        (at, 100.0 if at < DOWN[0] else 130.0 + during * (at - DOWN[0]) / 60 if at <= DOWN[1] else after)
        for at in times
    ]  # fmt: skip


def test_a_buffer_that_fills_and_empties_is_flat() -> None:
    assert judge({"producer": samples(0.0, 110.0)}, DOWN) == []


@pytest.mark.parametrize(("during", "after", "said"), [
    (2.0, 100.0, "producer grew by 2.0 MB a minute without a broker"),
    (0.0, 130.0, "producer had 100 MB before and 130 MB when all had left"),
])  # fmt: skip
def test_what_grows_or_does_not_come_back_is_named(during: float, after: float, said: str) -> None:
    assert judge({"producer": samples(during, after)}, DOWN) == [said]


def test_the_trend_is_megabytes_a_minute() -> None:
    assert trend([(0.0, 10.0), (30.0, 11.0), (60.0, 12.0)]) == pytest.approx(2.0)
