"""Deadlines: what is given up when its time is over, with one timer for all of it.

Most of what has a deadline ends long before it: a publish is confirmed, a question answered. A timer each, set and
called off again, would be a tenth of a message's work; here that is an entry in a dictionary. In exchange something may
be given up `LATE_S` late.
"""

from __future__ import annotations

import math
from typing import Generic, Protocol, TypeVar

from eventplat.clock import Cancellable, Clock

LATE_S = 0.1         # at the most: so often, and no more often, all that wait are looked through


class Expiring(Protocol):
    """What may be given up."""

    def expire(self) -> None: ...


T = TypeVar("T", bound=Expiring)


class Deadlines(Generic[T]):
    """Things that expire unless they are discarded before."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._live: dict[T, float] = {}
        self._timer: Cancellable | None = None
        self._rings_at = math.inf

    def add(self, item: T, seconds: float) -> None:
        """Let `item` expire `seconds` from now; in the next turn of the loop at the earliest."""
        now = self._clock.monotonic()
        self._live[item] = due = now + max(seconds, 0.0)
        if due < self._rings_at:
            self._ring(due, now)

    def discard(self, item: T) -> None:
        """It came to an end by itself."""
        self._live.pop(item, None)

    def _ring(self, at: float, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at, self._timer = at, self._clock.call_later(at - now, self._expire)

    def _expire(self) -> None:
        self._rings_at, self._timer, now = math.inf, None, self._clock.monotonic()
        for item in [item for item, due in self._live.items() if due <= now]:
            self._live.pop(item, None)
            item.expire()
        if self._live:
            self._ring(max(min(self._live.values()), now + LATE_S), now)
