"""Failures: what follows an attempt that raised, in a short transaction of its own.

    retry     it stands in `pending` and runs again when due
    newer     an event that this release does not know waits for an instance that does; no attempt is counted
    dead      it is out of attempts, or trying again is for nothing: an operator decides, and who waits is told

Next: service.retries
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from pydantic import ValidationError

from eventplat.errors import EventplatError, Malformed, UnknownType
from eventplat.failpoints import failpoint
from eventplat.messages.envelope import FAILED, Envelope
from eventplat.observability.metrics import FAILURES
from eventplat.service.endpoint import Endpoint
from eventplat.transactions import pending
from eventplat.transactions.attempts import error_record
from eventplat.transactions.unit_of_work import Transactions

logger = logging.getLogger(__name__)

NEWER_WAIT_US = 1_000_000     # until an event that this release does not know is looked at again
NEWER_US_MAX = 3_600_000_000  # a rolling upgrade is over by then


class Failures:
    """Records the failed attempts of one service.

    Attributes:
        wake_pending: Called when a row of `pending` may be due soon.
    """

    def __init__(self, transactions: Transactions) -> None:
        self.wake_pending: Callable[[], None] = lambda: None
        self._transactions = transactions
        self._clock, self._chance = transactions.sender.clock, transactions.sender.chance

    async def failed(self, endpoint: Endpoint, envelope: Envelope, error: Exception, attempts: int) -> None:
        """Record a failed attempt: it runs again when due, or is dead."""
        if isinstance(error, UnknownType) and await self._waits_for_newer(endpoint, envelope, error):
            return
        never = isinstance(error, Malformed | ValidationError)
        if never or endpoint.retry.gives_up(error, attempts):
            await self.give_up(endpoint, envelope, attempts, error)
            return
        wait_s = endpoint.retry.wait_s(error, attempts, self._chance.getrandbits(16) / 65_536)
        logger.warning("%s failed (attempt %d), again in %.1f s", endpoint.identity, attempts, wait_s, exc_info=error)
        failpoint("pending.before_record")
        async with self._transactions.begin(envelope) as work:
            await pending.record(
                work.connection, endpoint.identity, envelope, state="retry", attempts=attempts, wait_us=int(wait_s * 1_000_000),
                error=error_record(error, attempts, self._clock.time_us()),
            )  # fmt: skip
        FAILURES.labels(endpoint.identity, "retry").inc()
        failpoint("pending.after_record")
        self.wake_pending()

    async def _waits_for_newer(self, endpoint: Endpoint, envelope: Envelope, error: UnknownType) -> bool:
        """Let another instance try what this release does not know; no attempt is counted. False once that took too long."""
        async with self._transactions.begin(envelope) as work:
            known = await pending.find(work.connection, endpoint.identity, envelope.id)
            now_us = self._clock.time_us()
            if known is not None and known.errors and now_us - known.errors[0]["at_us"] > NEWER_US_MAX:
                return False
            if known is None:
                logger.warning("%s", error)
            wait_us = NEWER_WAIT_US + NEWER_WAIT_US * self._chance.getrandbits(16) // 65_536  # the next to look may be another one
            await pending.record(
                work.connection, endpoint.identity, envelope, state="retry", attempts=0, wait_us=wait_us,
                error=None if known is not None else error_record(error, 0, now_us),
            )  # fmt: skip
        self.wake_pending()
        return True

    async def give_up(self, endpoint: Endpoint, envelope: Envelope, attempts: int, error: Exception | None) -> None:
        """Record that it is dead, and tell who waits for its reply.

        Args:
            error: Of the last attempt; None: its process died.
        """
        if error is None:
            error = EventplatError(f"its process died during each of its last attempts, {attempts} in all")
        logger.error("%s gives up on %s after %d attempts; see `eventplat dlq show %s`",
                     endpoint.identity, envelope.id, attempts, envelope.id, exc_info=error)  # fmt: skip
        async with self._transactions.begin(envelope) as work:
            record = error_record(error, attempts, self._clock.time_us())
            await pending.record(
                work.connection, endpoint.identity, envelope, state="dead", attempts=attempts, wait_us=None, error=record
            )
            if endpoint.handler.message.kind != "event":
                work.answer(envelope, FAILED, json.dumps({"error": record["text"], "code": record["code"] or record["type"]}).encode())
        FAILURES.labels(endpoint.identity, "dead").inc()
