"""Schedules: when a periodic function is due. Pure.

A tick is named by its time, in microseconds since 1970: it says which tick it is, and as a fencing token it only grows,
also when a function's period is changed, or `every` becomes `cron`.

Every     the periods lie on multiples of themselves since 1970. A function that is new runs at once.
Cron      as cronsim reads an expression: at most a tick a second, in the named zone. A time that a change of clocks skips is
          made up for right after it, one that comes twice runs once (Debian's cron). A function that is new waits for
          its first time.
Missed    whatever was missed while nobody ran is one tick, the latest.

Next: service.ticks
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from eventplat.errors import BadHandler

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOOK_BACK = tuple(timedelta(minutes=minutes) for minutes in (2, 120, 2_880, 60_000, 600_000))  # 400 days


class Schedule(Protocol):
    """When a tick is due; times are microseconds since 1970 on the database's clock."""

    def latest(self, last_us: int | None, now_us: int) -> int | None:
        """The tick to run now, or None.

        Args:
            last_us: The tick that ran last, or when the function was first seen; None: it is new.
        """
        ...

    def following(self, last_us: int | None, now_us: int) -> int:
        """When the tick after `last_us`, which has run, is due."""
        ...


@dataclass(frozen=True, slots=True)
class Every:
    """Once per period."""

    period_us: int

    def latest(self, last_us: int | None, now_us: int) -> int | None:
        tick = now_us - now_us % self.period_us
        return None if last_us is not None and tick <= last_us else tick

    def following(self, last_us: int | None, now_us: int) -> int:
        return now_us - now_us % self.period_us + self.period_us


class Cron:
    """As a cron expression says, in a time zone.

    Raises:
        BadHandler: The expression or the zone is none.
    """

    def __init__(self, expression: str, timezone: str) -> None:
        try:
            self._zone = ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise BadHandler(f"cron({expression!r}): there is no time zone {timezone!r}. Name it as 'Europe/London'") from None
        self._expression = expression
        try:
            next(CronSim(expression, datetime(2000, 1, 1, tzinfo=UTC)))
        except (CronSimError, StopIteration) as error:
            why = str(error) or "it never comes"
            raise BadHandler(f"cron({expression!r}): {why}. Write minute, hour, day of month, month, day of week: '0 3 * * *'") from None

    def latest(self, last_us: int | None, now_us: int) -> int | None:
        if last_us is None or (tick := self._after(last_us)) > now_us:
            return None
        for look_back in _LOOK_BACK:  # from shortly before now, else from long before: never every tick of a year
            start = max(tick - 1, now_us - look_back // timedelta(microseconds=1))
            if (found := self._last_between(start, now_us)) is not None:
                return found
        return tick

    def following(self, last_us: int | None, now_us: int) -> int:
        return self._after(now_us if last_us is None else last_us)

    def _after(self, start_us: int) -> int:
        """The first tick after `start_us`."""
        start = _EPOCH + timedelta(microseconds=start_us)
        for found in CronSim(self._expression, start.astimezone(self._zone)):
            if found > start:  # where an hour comes twice, cronsim may name a time of the first one
                return _us(found)
        raise AssertionError("cronsim found the first tick when the function was declared")  # and it looks 50 years ahead

    def _last_between(self, start_us: int, now_us: int) -> int | None:
        found, tick = None, self._after(start_us)
        while tick <= now_us:
            found, tick = tick, self._after(tick)
        return found


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
