"""Batches: up to N deliveries of one handler in one transaction (`batch=N`).

The round trips are the cost: one claim, one flush, one commit for N messages. A batch takes what has come and never
waits for more.

Order      ids are claimed sorted, handlers run sorted by key: two batches take their locks in one order.
No         `Rejected` before the handler's first write is just an outcome; after it, what it wrote has to go.
Failure    of one message: all is rolled back, the others run again without it, and it runs alone.
Failure    of none in particular (the flush, the commit): the batch is halved until the one is found.
Deadlock   halves it too, and what this handler takes at a time; that grows again by one with each batch that succeeds.
Copies     and whatever needs more than its handler (an undo, poison, what is no message) go the way of single deliveries.

So a handler may run more than once for a message whose rows are written once: what it does outside the database
has to go by `ctx.idempotency_key`.

Next: service.pipeline
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from eventplat.broker.transport import Delivery
from eventplat.errors import Malformed, Rejected
from eventplat.failpoints import failpoint
from eventplat.messages.codec import to_envelope
from eventplat.messages.envelope import DONE, REJECTED, VOID, Envelope
from eventplat.observability.logs import logged_as
from eventplat.service.endpoint import Endpoint
from eventplat.service.pipeline import ISOLATE_AT, Pipeline, rejection
from eventplat.storage.failures import is_conflict, is_transient
from eventplat.transactions import inbox
from eventplat.transactions.inbox import Outcome
from eventplat.transactions.unit_of_work import UnitOfWork

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Item:
    envelope: Envelope
    delivery: Delivery


class _Offender(Exception):
    """One message of a batch failed."""

    def __init__(self, item: _Item) -> None:
        self.item = item


class _Conflict(Exception):
    """Two transactions waited for each other."""


class Batches:
    """Runs one handler's deliveries, up to `batch` of them in one transaction."""

    def __init__(self, pipeline: Pipeline, endpoint: Endpoint) -> None:
        self._pipeline, self._endpoint = pipeline, endpoint
        self._most = self._size = endpoint.handler.batch

    async def process(self, deliveries: Sequence[Delivery]) -> None:
        """Handle `deliveries` and settle each of them once."""
        failpoint("consumer.received")
        items, alone = self._sorted_out(deliveries)
        parts = deque(items[start : start + self._size] for start in range(0, len(items), self._size))
        while parts:
            alone += await self._together(parts.popleft(), parts)
        for delivery in alone:
            await self._pipeline.process(self._endpoint, delivery)

    def _sorted_out(self, deliveries: Sequence[Delivery]) -> tuple[list[_Item], list[Delivery]]:
        """What can run together, sorted by id, and what goes its own way."""
        together: dict[str, _Item] = {}
        alone: list[Delivery] = []
        for delivery in deliveries:
            try:
                envelope = to_envelope(delivery.properties, delivery.body)
            except Malformed:
                alone.append(delivery)
                continue
            if envelope.undoes is not None or delivery.delivery_count >= ISOLATE_AT or envelope.id in together:
                alone.append(delivery)
            else:
                together[envelope.id] = _Item(envelope, delivery)
        return [together[id_] for id_ in sorted(together)], alone

    async def _together(self, items: list[_Item], parts: deque[list[_Item]]) -> list[Delivery]:
        """Run `items` in one transaction; what has to run again is put in front of `parts` or returned to run alone."""
        if len(items) == 1:
            return [items[0].delivery]
        copies: list[_Item] = []
        try:
            done = await self._pipeline.reliably(partial(self._run, items, copies))
        except _Offender as offender:
            parts.appendleft([item for item in items if item is not offender.item])
            return [offender.item.delivery]
        except _Conflict:
            self._size = max(len(items) // 2, 1)
            _halve(items, parts)
            return []
        except Exception as error:
            logger.info("a batch of %d of %s failed as a whole and is halved: %s", len(items), self._endpoint.identity, error)
            _halve(items, parts)
            return []
        self._size = min(self._size + 1, self._most)
        copied = {id(item) for item in copies}
        for item in items:
            if not done:
                item.delivery.requeue()
            elif id(item) not in copied:
                item.delivery.ack()
        failpoint("consumer.after_ack")
        return [item.delivery for item in copies] if done else []

    async def _run(self, items: Sequence[_Item], copies: list[_Item]) -> None:
        copies.clear()
        endpoint = self._endpoint
        try:
            async with self._pipeline.transactions.begin() as work:
                envelopes = [item.envelope for item in items]
                claimed = await work.claim_many(endpoint.consumer, envelopes, handler=endpoint.identity)
                outcomes: list[Outcome] = []
                for item in sorted(items, key=lambda item: item.envelope.key or ""):
                    if item.envelope.id not in claimed:
                        copies.append(item)
                    elif (outcome := await self._handle(work, item)) is not None:
                        outcomes.append(outcome)
                await inbox.settle_many(work.connection, endpoint.consumer, outcomes)
        except Exception as error:
            if is_conflict(error):
                raise _Conflict from error
            raise

    async def _handle(self, work: UnitOfWork, item: _Item) -> Outcome | None:
        """Run one handler in the batch's transaction; returns what is to be recorded beyond "done"."""
        envelope, endpoint = item.envelope, self._endpoint
        work.cause = envelope
        if envelope.has_expired(work.sender.clock.time_us()):
            work.answer(envelope, VOID, b"{}")
            return Outcome(envelope.id, "void", b"{}")
        mark, written = work.mark(), work.written()
        try:
            with logged_as(envelope, endpoint.identity):
                message = self._pipeline.read(endpoint, envelope)
                outcome = await self._pipeline.caller.call(endpoint, message, envelope, work, attempt=1)
        except Rejected as rejected:
            if work.written() != written:
                raise _Offender(item) from rejected
            work.back_to(mark)
            refusal = rejection(rejected)
            work.answer(envelope, REJECTED, refusal)
            return Outcome(envelope.id, "rejected", refusal)
        except Exception as error:
            if is_transient(error):
                raise
            raise _Offender(item) from error
        if outcome is None:
            return None
        work.answer(envelope, DONE, outcome)
        return None if outcome == b"null" else Outcome(envelope.id, "done", outcome)


def _halve(items: list[_Item], parts: deque[list[_Item]]) -> None:
    middle = len(items) // 2
    parts.extendleft((items[middle:], items[:middle]))
