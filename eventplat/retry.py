"""Retry policies: how often, how long between; the only import of tenacity.

`Retry` is durable: a handler's failed attempt waits in the database and survives restarts. `until_reachable`
is for the moment: connecting to what is just being restarted.

Source: Brooker, "Exponential Backoff and Jitter" (2015): full jitter.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias, TypeVar

from tenacity import AsyncRetrying, before_sleep_log, retry_if_exception_type, stop_after_delay, wait_random_exponential

from eventplat.errors import Rejected

logger = logging.getLogger(__name__)

T = TypeVar("T")

Duration: TypeAlias = float | timedelta
"""Seconds, or a timedelta."""


def seconds(duration: Duration) -> float:
    """`duration` in seconds."""
    return duration.total_seconds() if isinstance(duration, timedelta) else float(duration)


@dataclass(frozen=True)
class Retry:
    """Durable: waits in the database, survives restarts.

    Args:
        attempts: How often a handler runs before its message is dead, the first run included.
        first: Before the second attempt; it doubles from there.
        longest: The wait never grows beyond this.
        never: Exceptions that make a message dead at once. `Rejected` and invalid messages are never retried.
    """

    attempts: int = 8
    first: Duration = 1
    longest: Duration = 300
    never: tuple[type[Exception], ...] = ()

    def gives_up(self, error: BaseException, attempts: int) -> bool:
        """Whether the `attempts`-th attempt, which raised `error`, was the last."""
        return attempts >= self.attempts or isinstance(error, (*self.never, Rejected))

    def wait_s(self, attempts: int, chance: float) -> float:
        """Seconds to wait after `attempts` attempts: half fixed, half chance (0..1)."""
        ceiling: float = min(seconds(self.first) * 2 ** min(attempts - 1, 30), seconds(self.longest))
        return ceiling * (0.5 + chance / 2)


async def until_reachable(
    attempt: Callable[[], Awaitable[T]], *, on: tuple[type[Exception], ...], within_s: float, longest_s: float = 5.0
) -> T:
    """Call `attempt` until it does not raise one of `on`, at most `within_s` seconds.

    Raises:
        Exception: What the last attempt raised.
    """
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(on),
        stop=stop_after_delay(within_s),
        wait=wait_random_exponential(multiplier=0.1, max=longest_s),
        before_sleep=before_sleep_log(logger, logging.INFO),
        reraise=True,
    )
    return await retrying(attempt)
