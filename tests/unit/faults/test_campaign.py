"""The fault campaign reaches every failpoint that its kind of stack can reach, on every process that passes it."""

from __future__ import annotations

import pytest

from eventplat.failpoints import NAMES
from tests.faults.campaign import CONSUMER, EMBEDDED, REPLY, faults
from tests.faults.stack import SERVICES, Kind

RUNS_MAX = 70        # of both kinds, at up to 50 s each: an hour


def points(kind: Kind, victim: str = "") -> set[str]:
    return {point for fault in faults(kind) for point in fault.points if victim in ("", *fault.victims)}


@pytest.mark.parametrize(("kind", "elsewhere"), [("embedded", set()), ("local", set(EMBEDDED))])
def test_every_failpoint_kills_on_each_kind_where_it_can_be(kind: Kind, elsewhere: set[str]) -> None:
    assert points(kind) == NAMES - elsewhere


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_dies_at_every_point_of_a_delivery(service: str) -> None:
    assert set(CONSUMER) <= points("local", service)


def test_who_sends_dies_with_rows_to_send_and_who_answers_before_and_after_its_answer() -> None:
    assert {name for name in SERVICES if "relay.claimed" in points("local", name)} == set(SERVICES) - {"notifications"}
    assert {name for name in SERVICES if set(REPLY) <= points("local", name)} == {"orders", "stock", "payments"}


def test_a_service_is_paused_for_longer_than_its_term_while_another_takes_over() -> None:
    assert any(fault.twin and fault.pauses and not fault.arms for fault in faults("local"))


def test_no_fault_is_run_twice_and_all_of_them_within_the_hour() -> None:
    for kind in ("embedded", "local"):
        assert len(set(faults(kind))) == len(list(faults(kind)))
    assert sum(len(list(faults(kind))) for kind in ("embedded", "local")) <= RUNS_MAX
