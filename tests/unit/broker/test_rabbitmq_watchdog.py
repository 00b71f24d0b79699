"""The watchdog judges by two looks in a row, and never a consumer that has just begun."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eventplat.broker.rabbitmq_watchdog import Sight, verdict

WELL = Sight(attachment=1, ready=0, consumers=1, received=5, unsettled=0)
LONELY = replace(WELL, consumers=0)
HUNGRY = replace(WELL, ready=9)


@pytest.mark.parametrize(
    ("before", "now", "reason"),
    [
        (WELL, WELL, None),
        (None, LONELY, None),
        (WELL, LONELY, None),
        (LONELY, LONELY, "the broker counts no consumer"),
        (LONELY, replace(LONELY, attachment=2), None),
        (LONELY, WELL, None),
        (HUNGRY, HUNGRY, "messages are ready and none is delivered"),
        (HUNGRY, replace(HUNGRY, received=6), None),
        (replace(HUNGRY, unsettled=1), replace(HUNGRY, unsettled=1), None),
        (WELL, HUNGRY, None),
        (HUNGRY, WELL, None),
    ],
)
def test_a_consumer_is_taken_up_anew_when_two_looks_agree(before: Sight | None, now: Sight, reason: str | None) -> None:
    assert verdict(before, now, single_active=False) == reason


def test_one_of_several_consumers_of_a_single_active_queue_may_wait() -> None:
    assert verdict(HUNGRY, HUNGRY, single_active=True) is None
    assert verdict(LONELY, LONELY, single_active=True) == "the broker counts no consumer"
