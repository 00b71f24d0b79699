"""The system's clocks: aware, in UTC, in the units that they say, and never back."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC

import pytest

from eventplat.clock import SystemClock


def test_wall_time_is_aware_and_utc() -> None:
    assert SystemClock().now().tzinfo is UTC


def test_both_wall_times_are_the_same_time() -> None:
    clock = SystemClock()
    before_us, now, after_us = clock.time_us(), clock.now(), clock.time_us()

    assert before_us - 1 <= now.timestamp() * 1_000_000 <= after_us + 1
    assert before_us // 1_000_000 in range(int(time.time()) - 60, int(time.time()) + 60)


def test_monotonic_time_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    before = clock.monotonic()
    monkeypatch.setattr(time, "time_ns", lambda: 0)  # somebody sets the clock to 1970

    assert clock.time_us() == 0
    assert clock.monotonic() >= before


def test_sleep_takes_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(delay: float) -> None:
        slept.append(delay)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    asyncio.run(SystemClock().sleep(1.5))

    assert slept == [1.5]
