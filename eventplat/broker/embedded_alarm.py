"""The disk alarm: from a failed commit until the journal takes a write again.

While it is on, the transport says `blocked`: publishes of persistent messages fail, consuming goes on. The journal
is tried every `RETRY_S`, and by every turn that has something to write.

Source: RabbitMQ, "Free Disk Space Alarms".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from eventplat.broker.embedded_journal import Journal
from eventplat.clock import Clock
from eventplat.errors import BrokerUnavailable, EventplatError

logger = logging.getLogger(__name__)

RETRY_S = 1.0


class DiskAlarm:
    """Off at first.

    Args:
        cleared: Called once the journal takes writes again.
    """

    def __init__(self, journal: Journal, clock: Clock, cleared: Callable[[], None]) -> None:
        self._journal, self._clock, self._cleared = journal, clock, cleared
        self._retry: asyncio.Task[None] | None = None

    @property
    def is_on(self) -> bool:
        return self._retry is not None

    def ring(self, error: EventplatError) -> None:
        """A commit failed."""
        if self._retry is None:
            logger.error("the embedded broker takes no publishes: %s", error)
            self._retry = asyncio.get_running_loop().create_task(self._try_again(), name="embedded broker: journal")

    def clear(self) -> None:
        """A commit succeeded, or nobody waits for one any more."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    async def _try_again(self) -> None:
        while True:
            await self._clock.sleep(RETRY_S)
            try:
                self._journal.check()
            except BrokerUnavailable:
                continue
            logger.warning("the embedded broker takes publishes again")
            self._retry = None
            self._cleared()
            return
