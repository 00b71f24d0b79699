"""Pipeline: one delivery, from bytes to ack.

    decode → claim → authorise → handle → outcome and outbox rows → commit → ack → dispatch

Ack        only after the commit. A lost connection, an unknown commit, a deadlock is not an attempt: the
           same delivery is tried again here, unacked, and handed back after a third of the consumer timeout.
Failure    the attempt is rolled back, recorded in `pending` in a short transaction of its own, then acked.
Rejected   is an outcome: rolled back too, then recorded and answered in a transaction of its own.
Copies     a settled message is answered from its recorded outcome; a pending one is acked without running.
Unknown    an event of a newer version is not this release's to judge: it waits in `pending` for an instance that knows it.
Late       a handler that asks others first: its transaction begins, with the claim, when it needs it.
Poison     a message that the broker counted three times is not run from the wire: it becomes `isolated`.

Next: service.failures
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from eventplat.broker.transport import Delivery
from eventplat.errors import Malformed, Rejected, UnknownType
from eventplat.failpoints import failpoint
from eventplat.messages.envelope import DONE, REJECTED, RUNNING, VOID, Envelope
from eventplat.observability.logs import logged_as
from eventplat.observability.metrics import FAILURES
from eventplat.service.call import Caller
from eventplat.service.endpoint import Endpoint
from eventplat.service.failures import Failures
from eventplat.storage.failures import is_transient
from eventplat.transactions import inbox, pending, turns, watermark
from eventplat.transactions.held import hold
from eventplat.transactions.pending import Pending
from eventplat.transactions.unit_of_work import NotTaken, Transactions, UnitOfWork

logger = logging.getLogger(__name__)

ISOLATE_AT = 3              # deliveries counted by the broker
ISOLATE_FOREIGN_AT = 1      # a classic queue counts no further
UNACKED_S_MAX = 600.0       # a third of RabbitMQ's consumer timeout of 30 minutes


class Pipeline:
    """Runs the handlers of one service."""

    def __init__(self, transactions: Transactions, caller: Caller) -> None:
        self.transactions, self.caller = transactions, caller
        self._clock, self._chance = transactions.sender.clock, transactions.sender.chance
        self.failures = Failures(transactions)

    async def process(self, endpoint: Endpoint, delivery: Delivery) -> None:
        """Handle one delivery and settle it exactly once."""
        failpoint("consumer.received")
        try:
            envelope = endpoint.envelope(delivery.properties, delivery.body)
        except Malformed as error:
            FAILURES.labels(endpoint.identity, "parked").inc()
            done = await self.reliably(partial(self.transactions.park, endpoint.identity, delivery, error))
        else:
            with logged_as(envelope, endpoint.identity):
                done = await self.reliably(partial(self._receive, endpoint, envelope, delivery))
        if not done:
            delivery.requeue()
            return
        delivery.ack()
        failpoint("consumer.after_ack")

    async def reliably(self, action: Callable[[], Awaitable[None]]) -> bool:
        """Do `action` until the database takes it; False when that took too long to keep a delivery unacked."""
        deadline, wait_s = self._clock.monotonic() + UNACKED_S_MAX, 0.05
        while True:
            try:
                await action()
            except Exception as error:
                if not is_transient(error):
                    raise
                if self._clock.monotonic() > deadline:
                    return False
                logger.info("waiting %.2f s for the database: %s", wait_s, error)
                await self._clock.sleep(wait_s * (0.5 + self._chance.getrandbits(16) / 131_072))
                wait_s = min(wait_s * 2, 2.0)
            else:
                return True

    async def run_pending(self, endpoint: Endpoint, row: Pending) -> None:
        """Run one row of `pending`, whose attempt has been counted."""
        envelope = endpoint.envelope(row.properties, row.body, id_=row.message_id)
        with logged_as(envelope, endpoint.identity):
            await self._run_pending(endpoint, row, envelope)

    async def _run_pending(self, endpoint: Endpoint, row: Pending, envelope: Envelope) -> None:
        if row.attempts > endpoint.retry.attempts_max:
            await self.failures.give_up(endpoint, envelope, row.attempts - 1, None)
            return
        try:
            is_late = endpoint.handler.is_late and envelope.undoes is None
            if is_late and await self._late(endpoint, envelope, partial(_take_pending, endpoint, row), row.attempts):
                return  # else it was settled meanwhile, or another runs it
            async with self.transactions.begin(envelope) as work:
                if not await pending.lock(work.connection, row):
                    return
                await pending.remove(work.connection, row.handler, row.message_id)
                if await work.claim(endpoint.consumer, handler=None):
                    await self._settle(work, endpoint, envelope, row.attempts)
                    if row.state == "isolated" and endpoint.handler.ordered:
                        await pending.mark_isolated(work.connection, row.handler, row.message_id)
                else:
                    await self._again(work, endpoint, envelope)
                failpoint("pending.before_commit")
        except Rejected as rejected:
            await self._refuse(endpoint, envelope, rejected, from_pending=True)
        except Exception as error:
            if is_transient(error):
                raise
            await self.failures.failed(endpoint, envelope, error, row.attempts)

    async def _receive(self, endpoint: Endpoint, envelope: Envelope, delivery: Delivery) -> None:
        if delivery.delivery_count >= (ISOLATE_AT if endpoint.handler.foreign is None else ISOLATE_FOREIGN_AT):
            await self._isolate(endpoint, envelope, delivery)
            return
        try:
            if endpoint.handler.is_late and envelope.undoes is None and await self._is_new(endpoint, envelope):
                take = partial(UnitOfWork.claim, consumer=endpoint.consumer, handler=endpoint.identity)
                if await self._late(endpoint, envelope, take, 1):
                    return  # else it is a copy that came while the first one ran: answered as any other
            async with self.transactions.begin(envelope) as work:
                if await work.claim(endpoint.consumer, handler=endpoint.identity):
                    await self._settle(work, endpoint, envelope, 1)
                else:
                    await self._again(work, endpoint, envelope, is_the_same=delivery.redelivered)
        except Rejected as rejected:
            await self._refuse(endpoint, envelope, rejected, from_pending=False)
        except Exception as error:
            if is_transient(error):
                raise
            await self.failures.failed(endpoint, envelope, error, 1)

    async def _late(self, endpoint: Endpoint, envelope: Envelope, take: Callable[[UnitOfWork], Awaitable[bool]], attempt: int) -> bool:
        """Run a handler whose transaction begins when it first needs it; False where the message was another's then."""
        try:
            async with self.transactions.begin_late(envelope, take) as work:
                await self._settle(work, endpoint, envelope, attempt)
        except NotTaken:
            return False
        return True

    async def _is_new(self, endpoint: Endpoint, envelope: Envelope) -> bool:
        """Whether the message is neither settled nor pending as yet: a copy need not run as far as its transaction."""
        async with self.transactions.database.transaction(read_only=True) as connection:
            if await inbox.look_up(connection, endpoint.consumer, envelope.id) is not None:
                return False
            return not await pending.stands(connection, endpoint.identity, envelope.id)

    async def _settle(self, work: UnitOfWork, endpoint: Endpoint, envelope: Envelope, attempt: int) -> None:
        """Run the handler of a claimed message and record its outcome, in `work`."""
        if envelope.has_expired(self._clock.time_us()):
            await work.begin()
            await self._void(work, endpoint, envelope)
            return
        if endpoint.handler.ordered:
            await self._leave_to_newer(work, endpoint, envelope)
            if not await self._in_turn(work, endpoint, envelope):
                return
        if endpoint.handler.ordered and not endpoint.accepts(envelope.type):
            return  # another event of its stream: it only moved the watermark
        message = self.read(endpoint, envelope)
        if envelope.undoes is not None:
            self.caller.authorise(endpoint, envelope)  # first: an undo makes a command void that has not run
            if not await self._is_to_undo(work, endpoint, envelope):
                await self._void(work, endpoint, envelope)
                return
        outcome = await self.caller.call(endpoint, message, envelope, work, attempt=attempt)
        if outcome is None:
            return  # an event, or a saga that answers when it ends
        if outcome != b"null":
            await inbox.settle(await work.begin(), endpoint.consumer, envelope.id, "done", outcome)
        work.answer(envelope, DONE, outcome)

    def read(self, endpoint: Endpoint, envelope: Envelope) -> Any:
        """The message in `envelope`.

        Raises:
            Rejected: "invalid": it is not one, and somebody waits to hear it.
            UnknownType: An event that this release does not know.
            Malformed: It is not one, and nobody asked, or it is another handler's: it is parked.
        """
        try:
            return endpoint.read(envelope)
        except Malformed as error:
            if envelope.reply_to is None or not endpoint.accepts(envelope.type):
                raise
            raise Rejected("invalid", status=422, detail=str(error.args[0])) from None

    async def _leave_to_newer(self, work: UnitOfWork, endpoint: Endpoint, envelope: Envelope) -> None:
        """Refuse to pass over an event that a newer release of this handler takes, and which runs beside this one."""
        if not endpoint.accepts(envelope.type) and await watermark.is_taken(work.connection, endpoint.identity, envelope.type):
            raise UnknownType(f"{envelope.type} came to {endpoint.identity}, of which a newer release handles it")

    async def _in_turn(self, work: UnitOfWork, endpoint: Endpoint, envelope: Envelope) -> bool:
        connection, identity = work.connection, endpoint.identity
        if endpoint.handler.batch > 1:
            waiting, has_freed = await turns.advance(connection, identity, [envelope], limit=endpoint.handler.batch)
            waits = bool(waiting)
        else:
            waits = await watermark.advance(connection, identity, envelope) == "wait"
            has_freed = not waits and await watermark.release(connection, identity, envelope)
        if has_freed:
            work.after_commit(self.failures.wake_pending)
        if not waits:
            return True
        await inbox.forget(work.connection, endpoint.consumer, envelope.id)
        await hold(work.connection, endpoint.identity, [envelope])
        return False

    async def _is_to_undo(self, work: UnitOfWork, endpoint: Endpoint, envelope: Envelope) -> bool:
        """Whether the command that `envelope` undoes was done; one that has not run is made void, and never will."""
        undone = envelope.undoes
        assert undone is not None  # noqa: S101
        failpoint("saga.before_undo")
        if await inbox.bury(work.connection, endpoint.consumer, undone, envelope.bucket):
            await pending.remove_everywhere(work.connection, undone)
            return False
        settled = await inbox.look_up(work.connection, endpoint.consumer, undone)
        return settled is not None and settled.state == "done"

    async def _void(self, work: UnitOfWork, endpoint: Endpoint, envelope: Envelope) -> None:
        await inbox.settle(work.connection, endpoint.consumer, envelope.id, "void", b"{}")
        work.answer(envelope, VOID, b"{}")

    async def _again(self, work: UnitOfWork, endpoint: Endpoint, envelope: Envelope, *, is_the_same: bool = True) -> None:
        """Another copy: answer what is recorded, byte for byte.

        Args:
            is_the_same: Nobody asked anew, the broker repeats itself: who waits need not hear that it still runs.
        """
        if endpoint.handler.message.kind == "event":
            return
        settled = await inbox.look_up(work.connection, endpoint.consumer, envelope.id)
        if settled is not None:
            is_other = settled.has_other_body(envelope.body)
        else:
            waiting = await pending.find(work.connection, endpoint.identity, envelope.id)
            is_other = waiting is not None and waiting.body != envelope.body
        if is_other:
            refusal = Rejected("other_body", status=422, detail="this id was used before with another body")
            answer = REJECTED, rejection(refusal)
        elif settled is not None:
            answer = await self.caller.recorded(work, envelope.id, settled)
        else:
            answer = await self.caller.unsettled(work, envelope.id)
        if answer[0] != RUNNING or not is_the_same:
            work.answer(envelope, *answer)

    async def _refuse(self, endpoint: Endpoint, envelope: Envelope, rejected: Rejected, *, from_pending: bool) -> None:
        """Record a business "no" and answer it: the handler's own writes are rolled back."""
        async with self.transactions.begin(envelope) as work:
            if from_pending:
                await pending.remove(work.connection, endpoint.identity, envelope.id)
            if not await work.claim(endpoint.consumer, handler=None if from_pending else endpoint.identity):
                await self._again(work, endpoint, envelope)
                return
            if endpoint.handler.ordered:
                await self._in_turn(work, endpoint, envelope)
            outcome = rejection(rejected)
            await inbox.settle(work.connection, endpoint.consumer, envelope.id, "rejected", outcome)
            work.answer(envelope, REJECTED, outcome)

    async def _isolate(self, endpoint: Endpoint, envelope: Envelope, delivery: Delivery) -> None:
        logger.warning("%s: message %s was handed out %d times without an ack; it runs alone from now on",
                       endpoint.identity, envelope.id, delivery.delivery_count)  # fmt: skip
        async with self.transactions.begin(envelope) as work:
            if await inbox.look_up(work.connection, endpoint.consumer, envelope.id) is not None:
                await self._again(work, endpoint, envelope)
                return
            if not await pending.stands(work.connection, endpoint.identity, envelope.id):
                await pending.record(work.connection, endpoint.identity, envelope, state="isolated", attempts=0, wait_us=0, error=None)
        FAILURES.labels(endpoint.identity, "isolated").inc()
        self.failures.wake_pending()


async def _take_pending(endpoint: Endpoint, row: Pending, work: UnitOfWork) -> bool:
    """Take a row of `pending` and its message; False where another has it, or it is settled."""
    if not await pending.lock(work.connection, row):
        return False
    await pending.remove(work.connection, row.handler, row.message_id)
    return await work.claim(endpoint.consumer, handler=None)


def rejection(rejected: Rejected) -> bytes:
    """The body of a REJECTED reply."""
    return json.dumps({"reason": rejected.reason, "status": rejected.status, "facts": rejected.facts}, default=str).encode()
