"""Batches: up to N deliveries of one handler in one transaction (`batch=N`).

The round trips are the cost: one claim, one flush, one commit for N messages. A batch takes what has come and never
waits for more.

Order      ids are claimed sorted, handlers run sorted by key: two batches take their locks in one order.
No         `Rejected` before the handler's first write is just an outcome; after it, what it wrote has to go.
Failure    of one message: all is rolled back, the others run again without it, and it runs alone.
Failure    of none in particular (the flush, the commit): the batch is halved until the one is found.
Deadlock   halves it too, and what this handler takes at a time; that grows again by one with each batch.
Copies     and whatever needs more than its handler (an undo, poison, what is no message) go the way of single deliveries.
Ordered    events of one key run in its order: who has to wait is held with the batch. What was held and may run now comes
           as rows of `pending`, whose attempts are counted, and shares a transaction again.

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
from eventplat.transactions import inbox, pending, turns, watermark
from eventplat.transactions.held import hold
from eventplat.transactions.inbox import Outcome
from eventplat.transactions.pending import Pending
from eventplat.transactions.unit_of_work import UnitOfWork

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Item:
    envelope: Envelope
    origin: Delivery | Pending

    def settle(self, *, is_done: bool) -> None:
        """Of a row there is nothing to do: it went with the commit."""
        if not isinstance(self.origin, Pending):
            self.origin.ack() if is_done else self.origin.requeue()


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
        await self._all(items, alone)

    async def run_pending(self, rows: Sequence[Pending]) -> None:
        """Run events that were held and are in their turn, and whose attempt has been counted."""
        await self._all([_Item(self._endpoint.envelope(row.properties, row.body), row) for row in rows], [])

    async def _all(self, items: list[_Item], alone: list[Delivery | Pending]) -> None:
        items.sort(key=_in_order if self._endpoint.handler.ordered else _by_id)
        parts = deque(items[start : start + self._size] for start in range(0, len(items), self._size))
        while parts:
            alone += await self._together(parts.popleft(), parts)
        for origin in alone:
            if isinstance(origin, Pending):
                await self._pipeline.reliably(partial(self._pipeline.run_pending, self._endpoint, origin))
            else:
                await self._pipeline.process(self._endpoint, origin)

    def _sorted_out(self, deliveries: Sequence[Delivery]) -> tuple[list[_Item], list[Delivery | Pending]]:
        """What can run together, and what goes its own way."""
        together: dict[str, _Item] = {}
        alone: list[Delivery | Pending] = []
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
        return list(together.values()), alone

    async def _together(self, items: list[_Item], parts: deque[list[_Item]]) -> list[Delivery | Pending]:
        """Run `items` in one transaction; what has to run again is put in front of `parts` or returned to run alone."""
        if len(items) == 1:
            self._size = min(self._size + 1, self._most)
            return [items[0].origin]
        apart: list[_Item] = []
        try:
            done = await self._pipeline.reliably(partial(self._run, items, apart))
        except _Offender as offender:
            parts.appendleft([item for item in items if item is not offender.item])
            return [offender.item.origin]
        except _Conflict:
            self._size = max(len(items) // 2, 1)
            _halve(items, parts)
            return []
        except Exception as error:
            logger.info("a batch of %d of %s failed as a whole and is halved: %s", len(items), self._endpoint.identity, error)
            _halve(items, parts)
            return []
        self._size = min(self._size + 1, self._most)
        left = {id(item) for item in apart}
        for item in items:
            if not done or id(item) not in left:
                item.settle(is_done=done)
        failpoint("consumer.after_ack")
        return [item.origin for item in apart] if done else []

    async def _run(self, items: Sequence[_Item], apart: list[_Item]) -> None:
        """Run `items` in one transaction, but those that it adds to `apart`: copies, and what this release does not know."""
        apart.clear()
        endpoint = self._endpoint
        try:
            async with self._pipeline.transactions.begin() as work:
                known = await self._known(work, items) if endpoint.handler.ordered else items
                claimed = await self._claim(work, sorted(known, key=_by_id))
                apart += [item for item in items if item.envelope.id not in claimed]
                mine = sorted((item for item in known if item.envelope.id in claimed), key=_in_order)
                if endpoint.handler.ordered:
                    mine = await self._in_turn(work, mine)
                outcomes = [outcome for item in mine if (outcome := await self._handle(work, item)) is not None]
                await inbox.settle_many(work.connection, endpoint.consumer, outcomes)
        except Exception as error:
            if is_conflict(error):
                raise _Conflict from error
            raise

    async def _known(self, work: UnitOfWork, items: Sequence[_Item]) -> Sequence[_Item]:
        """Those that no newer release of this ordered handler has to take."""
        others = {item.envelope.type for item in items if not self._endpoint.accepts(item.envelope.type)}
        newer = {type_ for type_ in others if await watermark.is_taken(work.connection, self._endpoint.identity, type_)}
        return [item for item in items if item.envelope.type not in newer]

    async def _claim(self, work: UnitOfWork, items: Sequence[_Item]) -> frozenset[str]:
        """The ids that are this transaction's own; what comes from `pending` leaves it."""
        rows = [item.origin for item in items if isinstance(item.origin, Pending)]
        if rows:
            taken = await pending.take_many(work.connection, rows)
            items = [item for item in items if item.envelope.id in taken]
        return await work.claim_many(self._endpoint.consumer, [item.envelope for item in items], handler=self._endpoint.identity)

    async def _in_turn(self, work: UnitOfWork, items: list[_Item]) -> list[_Item]:
        """Those of `items` whose turn it is; the others are held."""
        endpoint = self._endpoint
        envelopes = [item.envelope for item in items]
        waiting, has_freed = await turns.advance(work.connection, endpoint.identity, envelopes, limit=self._most)
        if has_freed:
            work.after_commit(self._pipeline.failures.wake_pending)
        if not waiting:
            return items
        await inbox.forget_many(work.connection, endpoint.consumer, sorted(waiting))
        await hold(work.connection, endpoint.identity, [item.envelope for item in items if item.envelope.id in waiting])
        return [item for item in items if item.envelope.id not in waiting]

    async def _handle(self, work: UnitOfWork, item: _Item) -> Outcome | None:
        """Run one handler in the batch's transaction; returns what is to be recorded beyond "done"."""
        envelope, endpoint = item.envelope, self._endpoint
        if endpoint.handler.ordered and not endpoint.accepts(envelope.type):
            return None  # another event of its stream: it only moved the watermark
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


def _by_id(item: _Item) -> str:
    return item.envelope.id


def _in_order(item: _Item) -> tuple[str, int]:
    """By key, that two batches take their locks in one order; of one key, as it was sent."""
    return item.envelope.key or "", item.envelope.seq or 0
