"""The turn: what the embedded broker does once per loop turn, when there is something to do.

Publishes, acks, requeues and new consumers only note what happened and ask for a turn (`call_soon`): no thread,
no polling. A turn takes everything noted since the last one:

    queue      what was published goes to the end of its queues, tentatively
    assign     what is ready is given to the consumers that have room, and counted
    commit     arrivals, counts and settlements in one journal transaction
    confirm    the publishers hear of it
    hand out   the consumers see it

So nothing is confirmed or seen that is not on disk, and a message that is published and consumed at once is
written once, already counted. If the commit fails, what arrived is taken back and its publishers hear
`BrokerUnavailable`; what was on disk already is handed out all the same; counts, settlements and dead letters wait
for the next commit (`broker.embedded_alarm`).

Dead letter   the new copies are written and the old one is deleted by the same commit. What no queue is bound for
              stays where it was until something is declared, or the broker opens again.
Expired       noticed when it is next in line, and when somebody asks for the depth.

Next: broker.embedded_journal
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from eventplat.broker.embedded_alarm import DiskAlarm
from eventplat.broker.embedded_delivery import EmbeddedDelivery
from eventplat.broker.embedded_journal import Journal, encoded, row
from eventplat.broker.embedded_kombu import EmbeddedChannel, EmbeddedConnection, Held, Publication
from eventplat.broker.embedded_queue import Copy, Message, QueueState
from eventplat.broker.refusal import refusal
from eventplat.broker.transport import Confirmed, Nacked, Outcome, Outgoing, Returned
from eventplat.clock import Clock
from eventplat.errors import BrokerUnavailable, EventplatError
from eventplat.failpoints import InjectedFault, failpoint

logger = logging.getLogger(__name__)

Accepted: TypeAlias = tuple[EmbeddedChannel, EmbeddedDelivery]

_CONFIRMED, _NO_ROUTE = Confirmed(), Returned("NO_ROUTE")


class Batch:
    """The publications of one `publish` call, settled together."""

    def __init__(self, publications: list[Publication], settled: asyncio.Future[None]) -> None:
        self._publications, self._settled = publications, settled

    def settle(self, error: EventplatError | None) -> None:
        """Tell the publisher: the turn's `error`, if anything of this batch should be on disk."""
        if self._settled.done():
            return
        if error is not None and any(copy.is_journaled for publication in self._publications for copy in publication.copies):
            self._settled.set_exception(BrokerUnavailable(str(error.args[0])))
        else:
            self._settled.set_result(None)


class Turns:
    """Everything that has been noted and not been done. Implements `embedded_kombu.Desk`.

    Args:
        held: Exchanges, queues and what is in them.
        journal: None: memory only.
    """

    def __init__(self, held: Held, clock: Clock, journal: Journal | None) -> None:
        self.state, self.queues, self.routes, self.ids = held.state, held.queues, held.routes, held.ids
        self._clock, self._journal, self._loop = clock, journal, asyncio.get_running_loop()
        self._connection = EmbeddedConnection(self)
        self.router = self._connection.channel()    # of the broker's own: declares and publishes
        self._is_due = False
        self._arrived: list[Publication] = []
        self._batches: list[Batch] = []
        self._touched: dict[QueueState, None] = {}  # in the order they were touched, so that a simulation replays
        self._counted: list[Copy] = []
        self._settled: list[int] = []
        self._stranded: list[Copy] = []
        self._alarm = None if journal is None else DiskAlarm(journal, clock, self._soon)

    @property
    def is_blocked(self) -> bool:
        """The last commit failed."""
        return self._alarm is not None and self._alarm.is_on

    @property
    def is_stale(self) -> bool:
        """Its loop ended without closing it."""
        return self._loop.is_closed()

    @property
    def is_elsewhere(self) -> bool:
        """Asked on another loop than its own."""
        return asyncio.get_running_loop() is not self._loop

    # --- noting ------------------------------------------------------------------------------------------------

    def publish(self, batch: Sequence[Outgoing]) -> tuple[list[Outcome], asyncio.Future[None] | None]:
        """Route `batch`. The outcomes hold once the future is done; without a future at once."""
        outcomes: list[Outcome] = []
        publications: list[Publication] = []
        for outgoing in batch:
            refused = self._refusal(outgoing)
            if refused is not None:
                outcomes.append(refused)
                continue
            publication = self.router.publish(Publication(self._message(outgoing), self._add))
            if publication.copies:
                publications.append(publication)
            outcomes.append(_CONFIRMED if publication.copies or not outgoing.mandatory else _NO_ROUTE)
        if not publications:
            return outcomes, None
        settled = self._loop.create_future()
        self._arrived += publications
        self._batches.append(Batch(publications, settled))
        self._soon()
        return outcomes, settled

    def bury_spent(self, queue: QueueState) -> None:
        """Dead-letter what killed its process more often than the queue allows."""
        for copy in queue.take_spent():
            self.dead_letter(copy)

    def forget(self, copy: Copy) -> None:
        if copy.is_on_disk:
            self._settled.append(copy.id)
            self._soon()

    def give_back(self, copy: Copy) -> None:
        if copy.is_spent:
            self.dead_letter(copy)
            return
        copy.queue.give_back(copy)
        self.look_at(copy.queue)

    def dead_letter(self, copy: Copy) -> None:
        binding, old = copy.queue.dead_letter, copy.message
        if binding is None:
            self.forget(copy)
            return
        properties = replace(old.properties, expiration=None)  # it would expire again in the queue of the dead
        message = Message(binding.exchange, binding.routing_key, properties, old.body, is_persistent=old.is_persistent)
        if self._journal is not None and old.is_persistent:
            message.encoded = encoded(properties)
        publication = self.router.publish(Publication(message, self._add, copy))
        if publication.copies:
            self._arrived.append(publication)
            self._soon()
        else:
            self._stranded.append(copy)
            logger.error("a dead letter of %s has nowhere to go: %s", copy.queue.name, binding)

    def declared(self) -> None:
        """Something was: what had nowhere to go is tried again."""
        stranded, self._stranded = self._stranded, []
        for copy in stranded:
            self.dead_letter(copy)

    def look_at(self, queue: QueueState) -> None:
        self._touched[queue] = None
        self._soon()

    def expire(self, queue: QueueState) -> None:
        """Take out of `queue` what has expired."""
        if queue.expiring:
            for copy in queue.take_expired(self._clock.time_us()):
                self.dead_letter(copy)

    def _refusal(self, outgoing: Outgoing) -> Nacked | None:
        if outgoing.exchange and outgoing.exchange not in (self.state.exchanges or ()):
            return Nacked(f"no exchange {outgoing.exchange!r}")
        return refusal(outgoing)

    def _message(self, outgoing: Outgoing) -> Message:
        message = Message.of(outgoing)
        if self._journal is not None and message.is_persistent:
            message.encoded = encoded(message.properties)
        return message

    def _add(self, publication: Publication, queue: QueueState) -> None:
        expiration = publication.message.properties.expiration
        expires_us = None if expiration is None else self._clock.time_us() + int(expiration) * 1_000
        publication.copies.append(Copy(next(self.ids), queue, publication.message, expires_us=expires_us))

    def _soon(self) -> None:
        if not self._is_due and not self._loop.is_closed():
            self._is_due = True
            self._loop.call_soon(self.run)

    # --- doing -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """One turn, if it is due."""
        if not self._is_due:
            return
        self._is_due = False
        arrived, self._arrived = self._arrived, []
        batches, self._batches = self._batches, []
        for publication in arrived:
            for copy in publication.copies:
                copy.queue.put(copy)
                self._touched[copy.queue] = None
        touched, self._touched = self._touched, {}
        accepted = [pair for queue in touched for pair in self._assign(queue)]
        error = self._commit(self._journal, self._alarm, arrived) if self._journal and self._alarm else None
        if error is not None:
            accepted = self._take_back(arrived, accepted)
        for batch in batches:
            batch.settle(error)
        for channel, delivery in accepted:
            channel.hand_out(delivery)

    def close(self) -> None:
        """Do what was noted and what follows from it, then nothing more."""
        while self._is_due:
            self.run()
        for copy in self._stranded:
            copy.queue.give_back(copy)
        self._stranded.clear()
        self._connection.close()
        if self._alarm is not None:
            self._alarm.clear()

    def _assign(self, queue: QueueState) -> Iterator[Accepted]:
        now_us = self._clock.time_us() if queue.expiring else 0
        while len(queue):
            head = queue.head()
            if head.has_expired(now_us) and head.is_on_disk == head.is_journaled:  # not while it is being written
                self.dead_letter(queue.take())
                continue
            consumer: EmbeddedChannel | None = queue.pick()
            if consumer is None:
                return
            queue.take()
            head.deliveries += 1
            if head.is_on_disk:
                self._counted.append(head)
            yield consumer, consumer.accept(head)

    def _commit(self, journal: Journal, alarm: DiskAlarm, arrived: list[Publication]) -> EventplatError | None:
        """Why `arrived` cannot be confirmed, or None."""
        copies = [copy for publication in arrived for copy in publication.copies if copy.is_journaled]
        replaced = [publication.replaces.id for publication in arrived if publication.replaces and publication.replaces.is_on_disk]
        if not (copies or replaced or self._counted or self._settled):
            return None
        counted = [(copy.deliveries, copy.id) for copy in self._counted]
        try:
            failpoint("embedded.before_journal")
            journal.commit([row(copy) for copy in copies], counted, self._settled + replaced)
        except (BrokerUnavailable, InjectedFault) as error:
            alarm.ring(error)
            return error
        for copy in copies:
            copy.is_on_disk = True
        self._counted, self._settled = [], []
        alarm.clear()
        try:
            failpoint("embedded.after_journal")
        except InjectedFault as fault:
            return fault
        return None

    def _take_back(self, arrived: list[Publication], accepted: list[Accepted]) -> list[Accepted]:
        """Undo the arrivals that are not on disk; returns what can be handed out all the same."""
        void = [copy for publication in arrived for copy in publication.copies if copy.is_journaled and not copy.is_on_disk]
        for copy in void:
            copy.is_void = True
        for queue in dict.fromkeys(copy.queue for copy in void):
            queue.take_void()
        for channel, delivery in accepted:
            if delivery.copy.is_void:
                channel.release(delivery)
        kept = [pair for pair in accepted if not pair[1].copy.is_void]
        for publication in arrived:
            if publication.replaces is not None:
                self._keep(publication)
        return kept

    def _keep(self, publication: Publication) -> None:
        """A dead letter that could not be written is written by the next commit."""
        publication.copies = [copy for copy in publication.copies if copy.is_void]
        for copy in publication.copies:
            copy.is_void, copy.deliveries = False, 0
        if publication.copies:
            self._arrived.append(publication)
        elif publication.replaces is not None:
            self.forget(publication.replaces)
