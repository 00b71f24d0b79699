"""Retry policies: how often, how long between; the only import of tenacity.

`Retry` is durable: a handler's failed attempt waits in the database and survives restarts. `until_reachable`
is for the moment: connecting to what is just being restarted.

Source: Brooker, "Exponential Backoff and Jitter" (2015): full jitter.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeAlias, TypeVar

from tenacity import AsyncRetrying, before_sleep_log, retry_if_exception_type, stop_after_delay, wait_random_exponential

from eventplat.errors import BadHandler, Rejected

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

        Retry(attempts=8, never=(NoSuchCustomer,), at_once=(StaleVersion,), when={RateLimited: Retry(attempts=20, first=60)})

    Args:
        attempts: How often a handler runs before its message is dead, the first run included.
        first: The longest wait before the second attempt; it doubles from there.
        longest: The wait never grows beyond this.
        never: Exceptions that make a message dead at once. `Rejected` and invalid messages are never retried either.
        at_once: Exceptions after which the next attempt waits for nothing: another came first, and the same again succeeds.
        when: Policies of their own for some exceptions, which decide in the place of this one; the nearest base class counts.
            Attempts are counted per message, whatever each of them raised.

    Raises:
        BadHandler: No attempt, a negative wait, or an exception that is both never and at once.
    """

    attempts: int = 8
    first: Duration = 1
    longest: Duration = 300
    never: tuple[type[Exception], ...] = ()
    at_once: tuple[type[Exception], ...] = ()
    when: Mapping[type[Exception], Retry] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.attempts < 1 or seconds(self.first) < 0 or seconds(self.longest) < 0:
            raise BadHandler(f"Retry(attempts={self.attempts}, first={self.first}, longest={self.longest}): "
                             "attempts count from 1, and a wait is not negative")  # fmt: skip
        if both := set(self.never) & set(self.at_once):
            raise BadHandler(f"Retry: {', '.join(sorted(kind.__name__ for kind in both))} is both never retried and retried at once")

    @property
    def attempts_max(self) -> int:
        """The most attempts that any exception leads to."""
        return max([self.attempts, *(policy.attempts_max for policy in self.when.values())])

    def gives_up(self, error: BaseException, attempts: int) -> bool:
        """Whether the `attempts`-th attempt, which raised `error`, was the last."""
        policy = _policy_of(self, error)
        return attempts >= policy.attempts or isinstance(error, (*policy.never, Rejected))

    def wait_s(self, error: BaseException, attempts: int, chance: float) -> float:
        """Seconds to wait after `attempts` attempts, the last of which raised `error`: any part (`chance`, 0..1) of what doubles."""
        policy = _policy_of(self, error)
        if isinstance(error, policy.at_once):
            return 0.0
        ceiling: float = min(seconds(policy.first) * 2 ** min(attempts - 1, 30), seconds(policy.longest))
        return ceiling * chance


def _policy_of(retry: Retry, error: BaseException) -> Retry:
    for kind in type(error).__mro__:
        if kind in retry.when:
            return _policy_of(retry.when[kind], error)
    return retry


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
