"""Time comes in through the door: the only reader of the system's clocks.

The platform never calls `time` or `datetime.now` elsewhere, so that tests and simulations decide what
time it is. The database has a clock of its own (`storage.database`), which this port does not replace.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol


class Cancellable(Protocol):
    """What can be called off."""

    def cancel(self) -> object: ...


class Clock(Protocol):
    """Wall time, monotonic time, and waiting."""

    def now(self) -> datetime:
        """Wall time, aware, UTC."""
        ...

    def time_us(self) -> int:
        """Wall time in microseconds since 1970."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean anything."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return `seconds` later."""
        ...

    def call_later(self, seconds: float, call: Callable[[], None]) -> Cancellable:
        """Call it on the loop `seconds` later, unless that is cancelled: a wait without a task of its own."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def time_us(self) -> int:
        return time.time_ns() // 1_000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, call)
