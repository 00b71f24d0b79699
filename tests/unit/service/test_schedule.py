"""When a periodic function is due: once per tick, the latest of those that were missed, over changes of clocks."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventplat.errors import BadHandler
from eventplat.service.handlers import Handlers
from eventplat.service.schedule import Cron, Every

LONDON = ZoneInfo("Europe/London")
MINUTE_US = 60_000_000
DAY_US = 24 * 60 * MINUTE_US


def us(text: str, zone: str = "Europe/London") -> int:
    """A wall clock's time in microseconds since 1970; "fold" behind it: the second of two."""
    text, _, fold = text.partition(" fold")
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=1 if fold else 0).timestamp()) * 1_000_000


def test_every_is_due_at_once_and_then_once_a_period() -> None:
    every = Every(5 * MINUTE_US)
    now = 12 * MINUTE_US

    assert every.latest(None, now) == 10 * MINUTE_US
    assert every.latest(10 * MINUTE_US, now) is None
    assert every.latest(0, now) == 10 * MINUTE_US
    assert every.following(10 * MINUTE_US, now) == 15 * MINUTE_US


@given(st.integers(1, 10**9), st.integers(1, 10**9), st.integers(0, 10**15))
def test_a_token_never_falls_when_a_period_is_changed(before_us: int, after_us: int, now_us: int) -> None:
    last = Every(before_us).latest(None, now_us)

    assert last is not None
    for later in (now_us, now_us + after_us, now_us + 2 * after_us):
        assert (Every(after_us).latest(last, later) or last) >= last
    assert Every(after_us).latest(last, now_us + 2 * after_us) is not None, "it runs on"


def test_a_new_cron_waits_for_its_first_time() -> None:
    cron = Cron("0 3 * * *", "Europe/London")
    seen = us("2026-07-01 12:00")

    assert cron.latest(None, seen) is None
    assert cron.following(None, seen) == us("2026-07-02 03:00")
    assert cron.latest(seen, us("2026-07-02 02:59")) is None
    assert cron.latest(seen, us("2026-07-02 03:00")) == us("2026-07-02 03:00")
    assert cron.following(us("2026-07-02 03:00"), us("2026-07-02 03:00")) == us("2026-07-03 03:00")


@pytest.mark.parametrize("expression", ["* * * * *", "*/7 * * * *", "0 3 * * *", "30 4 1 * *", "0 0 29 2 *"])
@pytest.mark.parametrize("down", [timedelta(minutes=1), timedelta(hours=5), timedelta(days=40), timedelta(days=2_000)])
def test_what_was_missed_is_one_tick_the_latest(expression: str, down: timedelta) -> None:
    cron = Cron(expression, "Europe/London")
    last = cron.following(None, us("2024-03-01 12:34"))
    now = last + down // timedelta(microseconds=1)

    latest = cron.latest(last, now)

    if latest is None:
        assert cron.following(last, now) > now
    else:
        assert last < latest <= now
        assert cron.following(latest, now) > now, "none is missed after it"
        assert cron.latest(latest, now) is None


def test_a_time_that_the_clocks_skip_is_made_up_for_right_after() -> None:
    cron = Cron("30 1 * * *", "Europe/London")          # 29 March 2026: 01:00 becomes 02:00

    skipped = cron.following(us("2026-03-28 01:30"), 0)

    assert skipped == us("2026-03-29 02:00")
    assert cron.following(skipped, 0) == us("2026-03-30 01:30")


@pytest.mark.parametrize("now", ["2026-10-25 01:30", "2026-10-25 01:31 fold", "2026-10-25 03:00"])
def test_a_time_that_comes_twice_runs_once(now: str) -> None:
    cron = Cron("30 1 * * *", "Europe/London")          # 25 October 2026: 02:00 becomes 01:00
    first = us("2026-10-25 01:30")

    assert cron.latest(us("2026-10-24 01:30"), us(now)) is not None
    assert cron.latest(first, us(now)) is None
    assert cron.following(first, us(now)) == us("2026-10-26 01:30")


@pytest.mark.parametrize("start", ["2026-10-25 00:30", "2026-10-25 01:10", "2026-10-25 01:10 fold", "2026-03-29 00:59"])
@pytest.mark.parametrize("expression", ["30 1 * * *", "*/20 * * * *", "0 * * * *", "0 1-3 * * *"])
def test_ticks_only_grow_over_a_change_of_clocks(start: str, expression: str) -> None:
    cron, tick = Cron(expression, "Europe/London"), us(start)
    for _ in range(30):
        following = cron.following(tick, 0)
        assert tick < following <= tick + 26 * 3_600 * 1_000_000
        tick = following


@pytest.mark.parametrize(
    ("expression", "timezone", "says"),
    [
        ("0 3 * *", "UTC", "Wrong number of fields"),
        ("61 3 * * *", "UTC", "Bad minute"),
        ("0 0 31 2 *", "UTC", "Bad day-of-month"),
        ("", "UTC", "Wrong number of fields"),
        ("0 3 * * *", "Europe/Lundon", "no time zone 'Europe/Lundon'"),
        ("0 3 * * *", "../../etc/passwd", "no time zone"),
        ("0 3 * * *", "", "no time zone"),
    ],
)
def test_a_cron_that_is_none_is_refused_when_it_is_declared(expression: str, timezone: str, says: str) -> None:
    with pytest.raises(BadHandler, match=says):
        Handlers[None]().cron(expression, timezone=timezone)
