"""Retry policies: when a message is given up, how long it waits, and how long a connection is tried."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventplat.errors import BadHandler, BrokerUnavailable, Rejected
from eventplat.retry import Duration, Retry, seconds, until_reachable


@pytest.mark.parametrize(("duration", "expected"), [(2, 2.0), (0.5, 0.5), (timedelta(minutes=1, milliseconds=500), 60.5)])
def test_a_duration_is_seconds_or_a_timedelta(duration: Duration, expected: float) -> None:
    assert seconds(duration) == expected


def test_a_message_is_given_up_after_its_last_attempt() -> None:
    policy = Retry(attempts=3)

    assert [policy.gives_up(ValueError(), attempts) for attempts in (1, 2, 3, 4)] == [False, False, True, True]


class NoSuchCustomer(LookupError):
    pass


@pytest.mark.parametrize(("error", "gives_up"), [(Rejected("no"), True), (NoSuchCustomer(), True), (LookupError(), False)])
def test_what_never_gets_better_is_given_up_at_once(error: Exception, gives_up: bool) -> None:
    assert Retry(never=(NoSuchCustomer,)).gives_up(error, 1) is gives_up


class Conflict(Exception):
    pass


class Limited(Exception):
    pass


class LimitedByTheBank(Limited):
    pass


def test_the_wait_doubles_up_to_the_longest() -> None:
    policy = Retry(first=1, longest=10)

    assert [policy.wait_s(ValueError(), attempts, 1.0) for attempts in (1, 2, 3, 4, 5, 1_000_000)] == [1, 2, 4, 8, 10, 10]


def test_all_of_the_wait_is_chance() -> None:
    policy = Retry(first=timedelta(seconds=8))

    assert [policy.wait_s(ValueError(), 1, chance) for chance in (0.0, 0.5, 1.0)] == [0, 4, 8]


def test_what_is_tried_at_once_waits_for_nothing_and_is_given_up_all_the_same() -> None:
    policy = Retry(attempts=3, at_once=(Conflict,))

    assert [policy.wait_s(error, 2, 1.0) for error in (Conflict(), ValueError())] == [0, 2]
    assert [policy.gives_up(Conflict(), attempts) for attempts in (2, 3)] == [False, True]


def test_an_exception_may_have_a_policy_of_its_own_and_the_nearest_class_decides() -> None:
    policy = Retry(attempts=3, when={Limited: Retry(attempts=20, first=60), LimitedByTheBank: Retry(never=(LimitedByTheBank,))})

    assert [policy.gives_up(error, 3) for error in (ValueError(), Limited(), LimitedByTheBank())] == [True, False, True]
    assert [policy.wait_s(error, 1, 1.0) for error in (ValueError(), Limited())] == [1, 60]
    assert policy.attempts_max == 20


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"attempts": 0}, "attempts=0"),
        ({"first": -1}, "first=-1"),
        ({"longest": timedelta(seconds=-1)}, "longest="),
        ({"never": (Conflict,), "at_once": (Conflict,)}, "Conflict is both"),
    ],
)  # fmt: skip
def test_a_policy_that_contradicts_itself_is_refused_when_it_is_declared(arguments: dict[str, Any], names: str) -> None:
    with pytest.raises(BadHandler, match=names):
        Retry(**arguments)


@given(st.integers(1, 10_000), st.floats(0, 1), st.floats(0, 1e6), st.floats(0, 1e6))
def test_the_wait_is_never_longer_than_the_longest(attempts: int, chance: float, first: float, longest: float) -> None:
    assert 0 <= Retry(first=first, longest=longest).wait_s(ValueError(), attempts, chance) <= longest


class Door:
    """Opens at the `opens_at`-th knock."""

    def __init__(self, opens_at: int, error: Exception) -> None:
        self.knocks, self._opens_at, self._error = 0, opens_at, error

    async def knock(self) -> str:
        self.knocks += 1
        if self.knocks < self._opens_at:
            raise self._error
        return "open"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was waited, without waiting."""
    waited: list[float] = []

    async def sleep(delay: float) -> None:
        waited.append(delay)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return waited


def test_what_comes_back_is_reached(waits: list[float]) -> None:
    door = Door(4, BrokerUnavailable("away"))

    assert asyncio.run(until_reachable(door.knock, on=(BrokerUnavailable,), within_s=60, longest_s=0.15)) == "open"
    assert len(waits) == 3
    assert max(waits) <= 0.15


def test_what_stays_away_is_given_up_with_its_own_error(waits: list[float]) -> None:
    door = Door(1_000, BrokerUnavailable("away"))

    with pytest.raises(BrokerUnavailable, match="away"):
        asyncio.run(until_reachable(door.knock, on=(BrokerUnavailable,), within_s=0))
    assert (door.knocks, waits) == (1, [])


def test_another_error_is_not_tried_again(waits: list[float]) -> None:
    door = Door(1_000, ValueError("wrong"))

    with pytest.raises(ValueError, match="wrong"):
        asyncio.run(until_reachable(door.knock, on=(BrokerUnavailable,), within_s=60))
    assert (door.knocks, waits) == (1, [])
