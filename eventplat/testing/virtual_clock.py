"""A clock that a test moves: time stands still until `advance`.

Whatever sleeps on it wakes in the order of its due times, and gets its turn on the loop before time moves on.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count

START = datetime(2030, 1, 1, 12, tzinfo=UTC)
TURNS = 5            # of the loop, at least, after each step
TURNS_MAX = 10_000   # at most: what never rests is met by the harness


class VirtualClock:
    """Implements `clock.Clock`."""

    def __init__(self, start: datetime = START) -> None:
        self._start, self._elapsed_s = start, 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed_s)

    def time_us(self) -> int:
        return int(self.now().timestamp() * 1_000_000)

    def monotonic(self) -> float:
        return self._elapsed_s

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        sleeper = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed_s + seconds, next(self._numbers), sleeper))
        await sleeper

    def call_later(self, seconds: float, call: Callable[[], None]) -> asyncio.Future[None]:
        sleeper = asyncio.get_running_loop().create_future()
        sleeper.add_done_callback(lambda ended: None if ended.cancelled() else call())
        if seconds > 0:
            heapq.heappush(self._sleepers, (self._elapsed_s + seconds, next(self._numbers), sleeper))
        else:
            sleeper.set_result(None)
        return sleeper

    async def advance(self, seconds: float) -> None:
        """Move time on, waking every sleeper that is due on the way, earliest first."""
        until = self._elapsed_s + seconds
        while self._sleepers and self._sleepers[0][0] <= until:
            due, _, sleeper = heapq.heappop(self._sleepers)
            if sleeper.done():  # its task was cancelled
                continue
            self._elapsed_s = max(self._elapsed_s, due)
            sleeper.set_result(None)
            await _settled()
        self._elapsed_s = until


async def _settled() -> None:
    """Return when nothing on the loop is ready to run: what woke has acted, as far as it can without waiting."""
    ready = getattr(asyncio.get_running_loop(), "_ready", ())  # CPython's loop; another one gets a fixed number of turns
    for turn in range(TURNS_MAX):
        await asyncio.sleep(0)
        if not ready and turn >= TURNS:
            return
