"""Answers: to processes that wait for them in memory.

At most once: nobody keeps an answer, and asking again answers again. Those of one loop turn leave in one batch, and
whoever made them does not wait for the broker to take them.

Next: routing.request_reply
"""

from __future__ import annotations

import asyncio
import logging

from eventplat.broker.transport import Outgoing, Transport
from eventplat.errors import BrokerUnavailable
from eventplat.failpoints import failpoint
from eventplat.transactions.letter import Letter

logger = logging.getLogger(__name__)

LEAVE_S = 2.0


class Answers:
    """Sends them."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._waiting: list[Outgoing] = []
        self._leaving: set[asyncio.Task[None]] = set()

    def send(self, letter: Letter) -> None:
        """Let it leave with the others of this turn."""
        self._waiting.append(letter.to_waiting())
        if len(self._waiting) == 1:
            task = asyncio.create_task(self._send_all())
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def stop(self) -> None:
        """Let those leave that are on their way, at most `LEAVE_S` seconds."""
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=LEAVE_S)

    async def _send_all(self) -> None:
        answers, self._waiting = self._waiting, []
        failpoint("reply.before_publish")
        try:
            await self._transport.publish(answers)
        except BrokerUnavailable as error:
            logger.info("up to %d answers did not leave: %s", len(answers), error)
        failpoint("reply.after_publish")
