"""Request and reply: ask another process and wait for its answer.

One exclusive reply queue per process, one consumer on it. An answer names the request that caused it; whoever
waits for that request gets it, several waiters of one request all do. Answers that nobody waits for any more are
dropped and counted: the outcome is recorded where the effect happened, and asking again answers again.

Source    Hohpe & Woolf, Enterprise Integration Patterns (2003), Request-Reply, Correlation Identifier.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from typing import Any
from uuid import uuid4

from eventplat.broker.topology import REPLIES, Binding, Names, Queue
from eventplat.broker.transport import Delivery, Nacked, Outgoing, Returned, Subscription, Transport
from eventplat.clock import Clock
from eventplat.errors import BrokerUnavailable, Malformed, TimedOut, Unroutable
from eventplat.messages.codec import to_envelope
from eventplat.messages.envelope import Envelope

logger = logging.getLogger(__name__)

PREFETCH = 1_000
CONFIRM_S = 10.0    # for the broker to take a question, even where nobody waits for the answer


class Requester:
    """Asks, on behalf of this process."""

    def __init__(self, transport: Transport, names: Names, clock: Clock) -> None:
        self.reply_to = names.waiting(str(uuid4()))
        self.late = 0                     # answers that nobody waited for
        self._transport, self._clock = transport, clock
        binding = Binding(names.exchange(REPLIES), self.reply_to)
        self._queue = Queue(self.reply_to, "exclusive", (binding,))
        self._waiting: defaultdict[str, list[asyncio.Future[Envelope]]] = defaultdict(list)
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        self._subscription = await self._transport.consume(self._queue, self._receive, prefetch=PREFETCH)

    async def stop(self) -> None:
        if self._subscription is not None:
            await self._subscription.cancel()
        for waiter in [waiter for waiters in self._waiting.values() for waiter in waiters]:
            if not waiter.done():
                waiter.set_exception(BrokerUnavailable("this process is stopping"))

    async def ask(self, outgoing: Outgoing, *, request_id: str, timeout_s: float) -> Envelope:
        """Publish `outgoing` and return its answer.

        Args:
            outgoing: With `reply_to` set to this requester's.
            timeout_s: Seconds to wait for the answer, publishing included. The broker always has `CONFIRM_S` to take the
                question, so that `TimedOut` means that it has it, also with a `timeout_s` of 0.

        Raises:
            Unroutable: No queue is bound for it.
            BrokerUnavailable: Not confirmed; it may have arrived all the same.
            TimedOut: Confirmed, and not answered in time.
        """
        began = self._clock.monotonic()
        answer: asyncio.Future[Envelope] = asyncio.get_running_loop().create_future()
        self._waiting[request_id].append(answer)
        try:
            try:
                outcome = (await self._transport.publish([outgoing], timeout_s=max(timeout_s, CONFIRM_S)))[0]
            except BrokerUnavailable:
                if answer.done():  # answered and not confirmed: it arrived
                    return answer.result()
                raise
            if isinstance(outcome, Returned):
                raise Unroutable(f"nothing is bound for {outgoing.properties.type}")
            if isinstance(outcome, Nacked):
                raise BrokerUnavailable(f"the broker refused it: {outcome.reason}")
            return await self._until(answer, timeout_s - (self._clock.monotonic() - began), outgoing)
        finally:
            self._forget(request_id, answer)

    @property
    def waiting(self) -> int:
        """Questions that are not answered yet."""
        return len(self._waiting)

    async def _until(self, answer: asyncio.Future[Envelope], seconds: float, outgoing: Outgoing) -> Envelope:
        timer = asyncio.ensure_future(self._clock.sleep(max(seconds, 0)))
        both: list[asyncio.Future[Any]] = [answer, timer]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
        if not answer.done():
            raise TimedOut(f"{outgoing.properties.type} was not answered in time")
        return answer.result()

    def _forget(self, request_id: str, answer: asyncio.Future[Envelope]) -> None:
        waiters = self._waiting.get(request_id, [])
        if answer in waiters:
            waiters.remove(answer)
        if not waiters:
            self._waiting.pop(request_id, None)
        answer.cancel()

    def _receive(self, delivery: Delivery) -> None:
        delivery.ack()
        try:
            reply = to_envelope(delivery.properties, delivery.body)
        except Malformed as error:
            logger.warning("dropped an answer that cannot be read: %s", error)
            return
        waiters = [waiter for waiter in self._waiting.get(reply.causation or "", ()) if not waiter.done()]
        self.late += not waiters
        for waiter in waiters:
            waiter.set_result(reply)
