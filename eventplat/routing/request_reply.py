"""Request and reply: ask another process and wait for its answer.

One exclusive reply queue per process, one consumer on it. Several may ask under one request id: a client that tries
again under its Idempotency-Key, with the same body or, wrongly, with another one. So each asks under a correlation id of
its own, which the answer carries back beside the request's id:

Outcome   done, rejected, failed, void: for all who wait for that request with the body that the asker sent.
          "Other body" is such a rejection, so it reaches those who sent that body and not the first.
Running   is said of the copy that was asked with, and only to who asked with it: the first still waits for the outcome.
Late      answers that nobody waits for any more are dropped and counted: the outcome is recorded where the effect
          happened, and asking again answers again.
Together  queries of one turn of the loop leave in one batch, and whoever asks one waits for its answer alone: that
          the broker has taken it is news only where there is none.

Source    Hohpe & Woolf, Enterprise Integration Patterns (2003), Request-Reply, Correlation Identifier.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import zip_longest
from typing import cast

from eventplat.broker.topology import REPLIES, Binding, Names, Queue
from eventplat.broker.transport import Confirmed, Delivery, Nacked, Outcome, Outgoing, Returned, Subscription, Transport
from eventplat.clock import Clock
from eventplat.deadlines import Deadlines
from eventplat.errors import BrokerUnavailable, Malformed, TimedOut, Unroutable
from eventplat.messages.codec import to_envelope
from eventplat.messages.envelope import RUNNING, Envelope
from eventplat.messages.ids import Chance, new_id

logger = logging.getLogger(__name__)

PREFETCH = 1_000
REMEMBERED = 10_000  # askers whose body is known after they have gone: the work's outcome comes to the first one's name
CONFIRM_S = 10.0     # for the broker to take a question, even where nobody waits for the answer


@dataclass(slots=True, eq=False)
class _Asker:
    correlation_id: str
    body: bytes                           # its digest; empty where nobody else asks under its request's id
    answer: asyncio.Future[Envelope]
    until: float                          # on the process's clock

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def expire(self) -> None:
        self.fail(TimeoutError())


class Requester:
    """Asks, on behalf of this process."""

    def __init__(self, transport: Transport, names: Names, clock: Clock, chance: Chance) -> None:
        self.reply_to = names.waiting(new_id(clock.time_us(), chance))
        self.late = 0                     # answers that nobody waited for
        self._transport, self._clock = transport, clock
        binding = Binding(names.exchange(REPLIES), self.reply_to)
        self._queue = Queue(self.reply_to, "exclusive", (binding,))
        self._waiting: defaultdict[str, list[_Asker]] = defaultdict(list)   # by request id
        self._bodies: OrderedDict[str, bytes] = OrderedDict()               # by correlation id, the newest last
        self._queries: list[tuple[_Asker, Outgoing]] = []                   # that leave in this turn
        self._leaving: set[asyncio.Task[None]] = set()
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        self._deadlines: Deadlines[_Asker] = Deadlines(self._clock)    # on this loop
        self._subscription = await self._transport.consume(self._queue, self._receive, prefetch=PREFETCH)

    async def stop(self) -> None:
        if self._subscription is not None:
            await self._subscription.cancel()
        for asker in [asker for askers in self._waiting.values() for asker in askers]:
            asker.fail(BrokerUnavailable("this process is stopping"))

    async def ask(
        self, outgoing: Outgoing, *, request_id: str, timeout_s: float, on_confirmed: Callable[[], None] = lambda: None
    ) -> Envelope:
        """Publish `outgoing` and return its answer.

        Args:
            outgoing: With `reply_to` set to this requester's, and a correlation id that no other asker uses.
            request_id: Its message id; others may ask under it at the same time.
            timeout_s: Seconds to wait for the answer, publishing included. The broker always has `CONFIRM_S` to take the
                question, so that `TimedOut` means that it has it, also with a `timeout_s` of 0.
            on_confirmed: Called when the broker has it.

        Raises:
            Unroutable: No queue is bound for it.
            BrokerUnavailable: Not confirmed; it may have arrived all the same.
            TimedOut: Confirmed, and not answered in time.
        """
        asker = self._asker(outgoing, request_id, timeout_s)
        self._waiting[request_id].append(asker)
        try:
            if outgoing.persistent:
                await self._send(asker, outgoing, timeout_s, on_confirmed)
            else:
                self._send_with_others(asker, outgoing)
            return await asker.answer
        except TimeoutError:
            raise TimedOut(f"{outgoing.properties.type} was not answered in time") from None
        finally:
            self._deadlines.discard(asker)
            self._forget(request_id, asker)

    @property
    def waiting(self) -> int:
        """Requests that are not answered yet."""
        return len(self._waiting)

    def _asker(self, outgoing: Outgoing, request_id: str, timeout_s: float) -> _Asker:
        correlation_id, answer = outgoing.properties.correlation_id or request_id, asyncio.get_running_loop().create_future()
        until = self._clock.monotonic() + timeout_s
        if correlation_id == request_id:  # asked under an id that nobody else has: no other's answer is its own
            return _Asker(correlation_id, b"", answer, until)
        asker = _Asker(correlation_id, blake2b(outgoing.body, digest_size=16).digest(), answer, until)
        self._bodies[correlation_id] = asker.body
        if len(self._bodies) > REMEMBERED:
            self._bodies.popitem(last=False)
        return asker

    async def _send(self, asker: _Asker, outgoing: Outgoing, timeout_s: float, on_confirmed: Callable[[], None]) -> None:
        try:
            (outcome,) = await self._transport.publish([outgoing], timeout_s=max(timeout_s, CONFIRM_S))
        except BrokerUnavailable:
            if not asker.answer.done():  # answered and not confirmed: it arrived
                raise
            return
        self._taken(asker, outgoing, outcome)
        if isinstance(outcome, Confirmed):
            on_confirmed()

    def _send_with_others(self, asker: _Asker, outgoing: Outgoing) -> None:
        self._queries.append((asker, outgoing))
        if len(self._queries) == 1:
            task = asyncio.create_task(self._send_queries())
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _send_queries(self) -> None:
        queries, self._queries = self._queries, []
        outcomes, failure = cast("Sequence[Outcome | None]", ()), ""
        try:
            outcomes = await self._transport.publish([outgoing for _, outgoing in queries], timeout_s=CONFIRM_S)
        except BrokerUnavailable as error:
            outcomes, failure = error.outcomes, str(error.args[0])
        except Exception as error:  # a bug: whoever asked has to hear of it all the same
            logger.exception("%d queries did not leave", len(queries))
            failure = f"it did not leave: {error!r}"
        for (asker, outgoing), outcome in zip_longest(queries, outcomes):
            if outcome is None:
                asker.fail(BrokerUnavailable(failure))
            else:
                self._taken(asker, outgoing, outcome)

    def _taken(self, asker: _Asker, outgoing: Outgoing, outcome: Outcome) -> None:
        """From now on it waits for its answer, if it is to have one."""
        if isinstance(outcome, Returned):
            asker.fail(Unroutable(f"nothing is bound for {outgoing.properties.type}"))
        elif isinstance(outcome, Nacked):
            asker.fail(BrokerUnavailable(f"the broker refused it: {outcome.reason}"))
        elif not asker.answer.done():
            self._deadlines.add(asker, asker.until - self._clock.monotonic())

    def _forget(self, request_id: str, asker: _Asker) -> None:
        askers = self._waiting.get(request_id, [])
        if asker in askers:
            askers.remove(asker)
        if not askers:
            self._waiting.pop(request_id, None)
        asker.answer.cancel()

    def _receive(self, delivery: Delivery) -> None:
        delivery.ack()
        try:
            reply = to_envelope(delivery.properties, delivery.body)
        except Malformed as error:
            logger.warning("dropped an answer that cannot be read: %s", error)
            return
        waiting = [asker for asker in self._waiting.get(reply.causation or "", ()) if not asker.answer.done()]
        askers = [asker for asker in waiting if self._concerns(reply, asker)]
        self.late += not askers
        for asker in askers:
            asker.answer.set_result(reply)

    def _concerns(self, reply: Envelope, asker: _Asker) -> bool:
        if asker.correlation_id == reply.correlation_id:
            return True
        return reply.type != RUNNING and bool(asker.body) and asker.body == self._bodies.get(reply.correlation_id)
