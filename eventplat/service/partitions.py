"""Partitions: the partition queues of one ordered handler, those of them that are this instance's.

Who consumes which partition is a lease in the service's database. Every few hundred milliseconds each instance renews
its leases, among them one that says only that it is there, looks who else is, and computes what everybody computes
(`coordination.share`): what it has too many it gives up, what is free and its own it takes.

Even      live instances differ by one partition at most, three turns after the last one came or went.
Hand over stop consuming, finish what was delivered, then release: the next one starts on a queue with nothing in hand.
Killed    its leases run out after a term, and its connection with it: the broker delivers again what it had.
Lost      a lease that was not renewed for two thirds of its term: nothing more is taken, by a loop that asks no
          database; what was delivered is finished if the drain time allows, and handed back if not. Cut off on the spot
          it would be for nothing: a machine that stands still now and then would roll back whatever it began, and each
          message handed back three times is taken for one that kills its process.
Backstop  each queue has a single active consumer. The next one waits in line while the broker still holds the connection
          of one that was paused, at most for two heartbeats.
More      a newer release announces its partitions as rows; older instances see them and take their share of those too.
Unfenced  no write checks a partition's token. Order and "once" are the watermark's and the inbox's, which hold also
          while two instances have a partition: a lease decides who works, not what is right.

A handler of one partition has no leases: its instances all stand in line at the one queue, and the broker hands over
from one to the next at once, without a term to wait for and whether or not there is a database.

Next: coordination.lease
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from eventplat.broker.consumer import Consumer
from eventplat.broker.partitions import partition_name
from eventplat.broker.topology import Queue
from eventplat.clock import Clock
from eventplat.coordination.lease import Leases, announce, forget, standings
from eventplat.coordination.share import share
from eventplat.errors import EventplatError, TopologyMissing
from eventplat.lifecycle import Loop
from eventplat.storage.database import Database

logger = logging.getLogger(__name__)

TURNS_PER_TERM = 6
PAUSE_S = 10.0       # for what was delivered when a pause comes
SILENT_TERMS = 10    # after which the row of an instance that died is deleted


class _Seat:
    """One partition that this instance consumes, from its lease to its release."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.starting = asyncio.create_task(consumer.start(), name=f"start {consumer.queue.name}")
        self.leaving: asyncio.Task[None] | None = None

    @property
    def failure(self) -> BaseException | None:
        """Why it does not consume."""
        return self.starting.exception() if self.starting.done() and not self.starting.cancelled() else None


class Partitions:
    """Consumes this instance's share of the partitions of one handler.

    Args:
        database: Of the service, by connections that do not wait behind handlers.
        identity: The handler's.
        whole: Its queue as that of one partition.
        count: How many partitions it has in this release, or had before.
        consumer_of: Makes the consumer of one partition's queue.
        holder: Names this run of this process.
        term_s: How long a lease lasts without being renewed; also how long a killed instance's partitions stand still.
        drain_s: How long it may finish what was delivered before it leaves a partition to another.
    """

    def __init__(
        self,
        database: Database,
        identity: str,
        whole: Queue,
        count: int,
        consumer_of: Callable[[Queue], Consumer],
        *,
        holder: str,
        term_s: float,
        drain_s: float,
        clock: Clock,
    ) -> None:
        self.queue = whole
        self._drain_s = drain_s
        self._database, self._identity, self._count, self._consumer_of = database, identity, count, consumer_of
        self._leases = Leases(database, holder, term_s=term_s, clock=clock)
        self._me = f"{identity}/instance/{holder}"
        self._parts = range(count)
        self._seats: dict[int, _Seat] = {}
        self._stands = self.is_paused = self._has_started = False
        turn_s = term_s / TURNS_PER_TERM
        self._loop = Loop(f"{identity} partitions", self.run_once, every_s=turn_s, clock=clock, slowest_s=turn_s)
        self._watch = Loop(f"{identity} watch", self._watched, every_s=turn_s / 2, clock=clock)

    @property
    def queues(self) -> tuple[str, ...]:
        """The names of all partition queues, whoever consumes them."""
        return tuple(partition_name(self.queue.name, number) for number in self._parts)

    @property
    def mine(self) -> frozenset[int]:
        """The partitions that this instance consumes."""
        return frozenset(number for number, seat in self._seats.items() if seat.leaving is None)

    @property
    def in_flight(self) -> int:
        """Deliveries that are here."""
        return sum(seat.consumer.in_flight for seat in self._seats.values())

    @property
    def is_active(self) -> bool:
        """Whether it stands for partitions, and the broker counts the consumers of all that it has."""
        seats = [self._seats[number] for number in self.mine]
        return self._leases.holds(self._me) and all(seat.consumer.is_active for seat in seats if seat.starting.done())

    async def start(self) -> None:
        async with self._database.transaction() as connection:
            await announce(connection, [self._lease(number) for number in range(self._count)])
            await forget(connection, f"{self._identity}/instance/", silent_s=SILENT_TERMS * self._leases.term_s)
        self._stands = self._has_started = True
        await self.run_once()
        if self._seats:
            await asyncio.wait([seat.starting for seat in self._seats.values()])
        await self._loop.start()
        await self._watch.start()

    async def pause(self) -> None:
        """Take nothing new, finish what was delivered, and stand for no partition; others may. Also before the start."""
        self.is_paused, self._stands = True, False
        await self._reliably(self._leases.release([self._me]))
        await self._leave_all(PAUSE_S)

    async def resume(self) -> None:
        """Stand for partitions again.

        Raises:
            DatabaseUnavailable: It is still paused.
        """
        if not self._has_started:
            await self.start()
        self.is_paused, self._stands = False, True
        self._loop.wake()

    async def stop(self, within_s: float = 10.0) -> None:
        """Take nothing new, handle within `within_s` seconds what was delivered, and leave all partitions to others."""
        self._stands = False
        await self._reliably(self._leases.release([self._me]))
        await self._leave_all(within_s)
        await self._loop.stop()  # until here it renewed what was still in hand
        await self._watch.stop()
        await self._leave_all(within_s)
        await self._reliably(self._leases.release(self._leases.names))  # what a turn took that was running meanwhile

    async def run_once(self) -> None:
        """One turn: renew, look, give up, take."""
        await self._leases.renew()
        self._hand_back_lost()
        if not self._stands:
            return
        if not self._leases.holds(self._me):
            await self._leases.take([self._me])
        members, holders = await self._look()
        shares = share(self._parts, members, holders)
        due = {number for number, member in shares.items() if member == self._leases.holder}
        for number in self.mine - due:
            self._leave(number, self._drain_s)
        due -= {number for number in self.mine if await self._is_gone(number)}
        free = {self._lease(n): n for n in due if n not in self._seats and holders.get(n) in (None, self._leases.holder)}
        for name in sorted(await self._leases.take(free)):
            if self._stands:
                self._seats[free[name]] = _Seat(self._consumer_of(self._queue(free[name])))

    async def _look(self) -> tuple[list[str], dict[int, str]]:
        """The live instances, and who holds which partition; learns of new partitions."""
        prefix = f"{self._identity}/"
        async with self._database.transaction(read_only=True) as connection:
            seen = await standings(connection, prefix)
        kinds = [(standing.name.removeprefix(prefix).partition("/"), standing.holder) for standing in seen]
        members = [member for (kind, _, member), holder in kinds if kind == "instance" and holder is not None]
        rows = {int(number): holder for (kind, _, number), holder in kinds if kind == "partition"}
        if (parts := range(max([self._count, *(number + 1 for number in rows)]))) != self._parts:
            logger.info("%s has %d partitions from now on", self._identity, len(parts))
            self._parts = parts
        return members, {number: holder for number, holder in rows.items() if holder is not None}

    async def _is_gone(self, number: int) -> bool:
        """Give up the seat of a queue that could not be consumed; whether an operator deleted one that was left over."""
        seat = self._seats[number]
        if seat.failure is None:
            return False
        logger.warning("%s cannot be consumed: %s", seat.consumer.queue.name, seat.failure)
        del self._seats[number]
        if not isinstance(seat.failure, TopologyMissing) or number < self._count:
            return False
        await self._leases.release([self._lease(number)])
        async with self._database.transaction() as connection:
            await forget(connection, self._lease(number), silent_s=0)
        return True

    def _leave(self, number: int, within_s: float) -> None:
        seat = self._seats[number]
        if seat.leaving is None:
            seat.leaving = asyncio.create_task(self._vacate(number, seat, within_s), name=f"leave {seat.consumer.queue.name}")

    async def _vacate(self, number: int, seat: _Seat, within_s: float) -> None:
        seat.starting.cancel()
        await asyncio.wait([seat.starting])
        try:
            await seat.consumer.stop(within_s)
        except Exception:
            logger.exception("the consumer of %s did not stop cleanly", seat.consumer.queue.name)
        await self._reliably(self._leases.release([self._lease(number)]))
        del self._seats[number]
        self._loop.wake()

    async def _leave_all(self, within_s: float) -> None:
        for number in self._seats:
            self._leave(number, within_s)
        if leaving := [seat.leaving for seat in self._seats.values() if seat.leaving is not None]:
            await asyncio.wait(leaving)

    async def _watched(self) -> None:
        self._hand_back_lost()

    def _hand_back_lost(self) -> None:
        for number in self.mine:
            if not self._leases.holds(self._lease(number)):
                logger.warning("%s lost its lease of partition %d and takes nothing more from it", self._identity, number)
                self._leave(number, self._drain_s)

    async def _reliably(self, releasing: Awaitable[None]) -> None:
        try:
            await releasing
        except EventplatError as error:  # then it ends with its term
            logger.info("a lease of %s was not released: %s", self._identity, error)

    def _lease(self, number: int) -> str:
        return f"{self._identity}/partition/{number:02}"

    def _queue(self, number: int) -> Queue:
        return Queue(
            partition_name(self.queue.name, number), single_active=self.queue.single_active, dead_letter=self.queue.dead_letter
        )
