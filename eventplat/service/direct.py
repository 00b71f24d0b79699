"""Direct: handlers of a service without a database, at least once.

    mail = Service("mail", database=False)

For what keeps nothing of its own: letters, webhooks, a cache. No inbox, so a copy runs again: hand
`ctx.idempotency_key` to whoever can tell. No outbox, so what a handler sent leaves after it and before the ack.

    decode → authorise → handle → publish what it sent, confirmed → ack

Failure    tried again here, unacked, as the handler's `Retry` says; then rejected, to `<service>.dead` on the broker.
Killed     the broker hands it out again and counts; as many deliveries as attempts, and it is rejected.
Stop       what is not acked comes again.

Next: broker.transport
"""

from __future__ import annotations

import json
import logging

from pydantic import ValidationError

from eventplat.broker.transport import Confirmed, Delivery, Returned, Transport
from eventplat.errors import BrokerUnavailable, EventplatError, Malformed, NotSent, Rejected
from eventplat.failpoints import failpoint
from eventplat.messages.codec import to_envelope
from eventplat.messages.envelope import DONE, FAILED, REJECTED, VOID, Envelope
from eventplat.observability.logs import logged_as
from eventplat.service.call import Caller
from eventplat.service.endpoint import Endpoint
from eventplat.service.pipeline import UNACKED_S_MAX, rejection
from eventplat.transactions.answers import Answers
from eventplat.transactions.letter import Letter
from eventplat.transactions.sender import Sender
from eventplat.transactions.unit_of_work import UnitOfWork

logger = logging.getLogger(__name__)

BROKER_WAIT_S = 0.2


class Direct:
    """Runs the handlers of one service that has no database."""

    def __init__(self, sender: Sender, caller: Caller, transport: Transport, answers: Answers) -> None:
        self._sender, self._caller, self._transport, self._answers = sender, caller, transport, answers
        self._clock = sender.clock

    async def process(self, endpoint: Endpoint | None, delivery: Delivery) -> None:
        """Handle one delivery and settle it; `endpoint` None: what became of a command, which nobody wrote down."""
        failpoint("consumer.received")
        try:
            envelope = to_envelope(delivery.properties, delivery.body)
        except Malformed as error:
            logger.warning("%s refused what is not a message: %s", delivery.queue, error)
            delivery.dead_letter()
            return
        if endpoint is None:
            await self._answer(envelope, REJECTED, rejection(Rejected("not_recorded", status=404)))
            delivery.ack()
            return
        if delivery.delivery_count and delivery.delivery_count >= endpoint.retry.attempts_max:
            await self._give_up(endpoint, envelope, EventplatError("its process died during each of its attempts"))
            delivery.dead_letter()
            return
        with logged_as(envelope, endpoint.identity):
            is_done = await self._handled(endpoint, envelope, first=delivery.delivery_count + 1)
        if is_done:
            delivery.ack()
            failpoint("consumer.after_ack")
        else:
            delivery.dead_letter()

    async def _handled(self, endpoint: Endpoint, envelope: Envelope, *, first: int) -> bool:
        """Try until done, or False once its attempts are used up."""
        attempt, until = first, self._clock.monotonic() + UNACKED_S_MAX
        while True:
            try:
                await self._run(endpoint, envelope, attempt)
            except Rejected as rejected:
                await self._answer(envelope, REJECTED, rejection(rejected))
                return True
            except BrokerUnavailable as error:  # not the handler's fault, and what it did is not undone
                logger.info("%s waits for the broker: %s", endpoint.identity, error)
                await self._clock.sleep(BROKER_WAIT_S)
            except Exception as error:
                never = isinstance(error, Malformed | ValidationError) or endpoint.handler.message.kind == "query"
                wait_s = endpoint.retry.wait_s(error, attempt, self._sender.chance.getrandbits(16) / 65_536)
                if never or endpoint.retry.gives_up(error, attempt) or self._clock.monotonic() + wait_s > until:
                    await self._give_up(endpoint, envelope, error)
                    return False
                logger.warning("%s failed (attempt %d), again in %.1f s", endpoint.identity, attempt, wait_s, exc_info=error)
                await self._clock.sleep(wait_s)
                attempt += 1
            else:
                return True

    async def _run(self, endpoint: Endpoint, envelope: Envelope, attempt: int) -> None:
        work = UnitOfWork(None, self._sender, envelope)
        if envelope.has_expired(self._clock.time_us()):
            work.answer(envelope, VOID, b"{}")
        else:
            message = endpoint.read(envelope)
            outcome = await self._caller.call(endpoint, message, envelope, work, attempt=attempt)
            if outcome is not None:
                work.answer(envelope, DONE, outcome)
        await self._send(work, must_leave=endpoint.handler.message.kind != "query")

    async def _send(self, work: UnitOfWork, *, must_leave: bool = True) -> None:
        letters, answers = work.leaving()
        if letters:
            await self._send_confirmed(letters)
        if answers and must_leave:
            await self._transport.publish([answer.to_waiting() for answer in answers])  # only now is it true
            return
        for answer in answers:
            self._answers.send(answer)

    async def _send_confirmed(self, letters: list[Letter]) -> None:
        for letter, outcome in zip(letters, await self._transport.publish([letter.outgoing() for letter in letters]), strict=True):
            if isinstance(outcome, Confirmed) or (letter.is_event and isinstance(outcome, Returned)):
                continue  # an event that nobody subscribes to is no error
            raise NotSent(f"{letter.envelope.type} to {letter.routing_key}: {outcome.reason}")

    async def _give_up(self, endpoint: Endpoint, envelope: Envelope, error: Exception) -> None:
        logger.error("%s gives up on %s: it goes to the broker's dead letters", endpoint.identity, envelope.id, exc_info=error)
        code = error.code if isinstance(error, EventplatError) else type(error).__name__
        await self._answer(envelope, FAILED, json.dumps({"error": str(error)[:1_000], "code": code}).encode())

    async def _answer(self, envelope: Envelope, type_: str, body: bytes) -> None:
        """Tell whoever waits; at most once, since a reader that is gone must not keep the delivery."""
        work = UnitOfWork(None, self._sender, envelope)
        work.answer(envelope, type_, body)
        try:
            await self._send(work)
        except (BrokerUnavailable, NotSent) as error:
            logger.info("the answer to %s did not leave: %s", envelope.id, error)
