"""Timers: what a saga is to do later, each in a transaction of its own.

Any instance lets a timer fire. It locks the saga first, as a reply does, so that the two never wait for each
other crosswise; a saga that another instance works on is passed by and comes in a later turn.

One try   a timer that fails is logged and leaves the others alone; a database that is away ends the turn.
Known     only timers of sagas that this release knows: in a rolling deploy the rest is its newer neighbours'.

Next: sagas.orchestrator
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection

from eventplat.clock import Clock
from eventplat.errors import DatabaseUnavailable
from eventplat.lifecycle import Loop
from eventplat.sagas import store
from eventplat.sagas.store import Timer
from eventplat.storage.database import Database
from eventplat.storage.failures import is_transient

logger = logging.getLogger(__name__)

EVERY_S = 1.0
BUSY_S = 0.1     # until sagas are looked at again that others were at work on
BATCH = 100


class Timers:
    """The timers of one service's sagas.

    Args:
        names: Of the sagas that this release knows.
        fire: Lets one timer fire; False where its saga is another's at the moment, or the timer is gone.
    """

    def __init__(
        self, service: str, database: Database, names: Collection[str], fire: Callable[[Timer], Awaitable[bool]], clock: Clock
    ) -> None:
        self._database, self._names, self._fire = database, names, fire
        self._loop = Loop(f"{service} timers", self.run_once, every_s=EVERY_S, clock=clock)

    async def start(self) -> None:
        await self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()

    async def run_once(self) -> float:
        """Let what is due fire; returns seconds until something may be due again."""
        async with self._database.transaction(read_only=True) as connection:
            timers = await store.next_timers(connection, list(self._names), limit=BATCH)
            now_us = await self._database.now_us(connection)
        due = [timer for timer in timers if timer.due_us <= now_us]
        fired = [await self._try(timer) for timer in due]
        if due:
            return 0.0 if any(fired) else BUSY_S if False in fired else EVERY_S
        return min(EVERY_S, (timers[0].due_us - now_us) / 1_000_000) if timers else EVERY_S

    async def _try(self, timer: Timer) -> bool | None:
        """Whether it fired; None where it failed."""
        try:
            return await self._fire(timer)
        except DatabaseUnavailable:
            raise
        except Exception as error:
            level = logging.INFO if is_transient(error) else logging.ERROR
            logger.log(level, "the %s timer of saga %s comes again: %s", timer.kind, timer.subject, error, exc_info=level == logging.ERROR)
            return None
