"""Dispatch: publish what this process has just committed, and delete it once confirmed.

The second half of the transactional outbox, in the common case: the process that committed publishes its
own rows at once, in commit order, many to a batch, and deletes what the broker has confirmed.

Confirmed   the row is deleted, gathered with all that were confirmed since the last deletion and a moment longer.
Returned    no queue is bound. An event stays in the log, marked unrouted; anything else is given back, due later.
Nacked      given back, due later.
No answer   the broker is away or slow: what it did settle of the batch is settled here too, so that a slow one
            makes progress; the rest again, under the same ids.
No memory   letters are held up to a bound; beyond it, and after a commit with an unknown outcome, the rows
            themselves are read again (`sweep`), and every `SWEEP_S` in any case: a commit may become
            visible after whoever waited for it gave up.

Next: transactions.relay, broker.transport
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from eventplat.broker.topology import EVENTS, Names
from eventplat.broker.transport import Confirmed, Outcome, Outgoing, Returned, Transport
from eventplat.clock import Clock
from eventplat.errors import BrokerUnavailable
from eventplat.failpoints import armed, failpoint
from eventplat.lifecycle import Loop, is_own_cancellation
from eventplat.observability.metrics import OUTBOX_WAITING, UNROUTED
from eventplat.storage.database import Database
from eventplat.transactions import outbox
from eventplat.transactions.owner import Owner

logger = logging.getLogger(__name__)

BATCH_MAX = 500
HELD_MAX = 10_000
RETURNED_WAIT_US = 2_000_000
NACKED_WAIT_US = 1_000_000
SWEEP_S = 10.0
GATHER_S = 0.02                           # that confirmed rows may wait for others, where a transaction is three round trips
TURNS_TO_WRITE = 4                        # of the loop: frames are gathered until one ends, written when the socket takes them
TIMEOUT_S, TIMEOUT_EACH_S = 10.0, 0.05   # of a batch: a broker that confirms twenty a second is slow, not away


class Dispatcher:
    """Publishes and settles the outbox rows that this process owns."""

    def __init__(self, database: Database, transport: Transport, names: Names, owner: Owner, clock: Clock) -> None:
        self._database, self._transport, self._owner, self._clock = database, transport, owner, clock
        self.events = names.exchange(EVENTS)
        self.on_unrouted: Callable[[], None] = lambda: None   # events were marked as unrouted
        self._waiting: deque[tuple[str, Outgoing]] = deque()
        self._known: dict[str, int] = {}           # waiting, published or confirmed, and not deleted yet; numbered as they came
        self._came = 0
        self._settling: list[tuple[str, Outgoing, Outcome]] = []
        self._gone: set[str] | None = None         # settled while our rows are being read
        self._must_sweep = self._is_stopping = False
        self._sweeps = Loop("sweep", self._sweep_again, every_s=SWEEP_S, clock=clock)
        self._work, self._settle = asyncio.Event(), asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._unrouted = UNROUTED.labels(database.service)
        OUTBOX_WAITING.labels(database.service).set_function(lambda: self.pending_count)
        owner.on_lost(self._forget)

    @property
    def pending_count(self) -> int:
        """Rows taken and not yet deleted."""
        return len(self._known)

    async def start(self) -> None:
        self._is_stopping = False
        self._tasks = [
            asyncio.create_task(self._forever(self._publish_next, self._work), name="dispatch"),
            asyncio.create_task(self._forever(self._publish_more, self._work), name="dispatch more"),
            asyncio.create_task(self._forever(self._settle_next, self._settle), name="settle"),
        ]
        await self._sweeps.start()

    async def stop(self, within_s: float = 5.0) -> None:
        """Publish and delete what is waiting, at most `within_s` seconds; the relay takes the rest."""
        self._is_stopping = True
        await self._sweeps.stop()
        deadline = self._clock.monotonic() + within_s
        while self._known and self._clock.monotonic() < deadline:
            await self._clock.sleep(0.01)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def dispatch(self, letters: Sequence[tuple[str, Outgoing]], owner: str) -> None:
        """Publish these committed rows soon.

        Args:
            owner: Under whose id they were committed or adopted; rows of a lost id are the relay's.
        """
        if owner != self._owner.id:
            return
        for letter in letters:
            if letter[0] in self._known:
                continue
            if len(self._known) >= HELD_MAX:
                self.sweep()
                break
            self._came += 1
            self._known[letter[0]] = self._came
            self._waiting.append(letter)
        if letters:
            self._work.set()

    def sweep(self) -> None:
        """Read our own rows again: some may be committed and not known here."""
        self._must_sweep = True
        self._work.set()

    async def _sweep_again(self) -> None:
        self.sweep()

    def _forget(self) -> None:
        self._waiting.clear()
        self._known.clear()
        self._settling.clear()

    async def _forever(self, turn: Callable[[], Awaitable[None]], wake: asyncio.Event) -> None:
        delay = 0.1
        while True:
            await wake.wait()
            wake.clear()
            try:
                await turn()
                delay = 0.1
            except (Exception, asyncio.CancelledError) as error:
                if is_own_cancellation(error):
                    raise
                expected = isinstance(error, BrokerUnavailable)
                logger.log(logging.INFO if expected else logging.WARNING, "dispatch waits %.1f s: %s", delay, error, exc_info=not expected)
                await self._clock.sleep(delay)
                delay = min(delay * 2, 5.0)
                wake.set()

    async def _publish_next(self) -> None:
        while self._waiting or self._must_sweep:
            if not self._owner.may_publish:
                await self._clock.sleep(0.2)
                continue
            if not self._waiting:
                await self._read_own()
                continue
            await self._publish(self._next_batch())

    async def _publish_more(self) -> None:
        """Of a backlog, a second batch while the first is being confirmed: else broker and window have nothing to do meanwhile.

        A whole one only: what trickles in goes after what was not confirmed, which a second one may overtake where the first fails.
        """
        while len(self._waiting) >= BATCH_MAX and self._owner.may_publish:
            await self._publish(self._next_batch())

    def _next_batch(self) -> list[tuple[str, Outgoing]]:
        return [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH_MAX))]

    async def _publish(self, batch: list[tuple[str, Outgoing]]) -> None:
        failpoint("dispatch.before_publish")
        timeout_s = TIMEOUT_S + TIMEOUT_EACH_S * len(batch)
        outcomes: Sequence[Outcome | None] = [None] * len(batch)
        try:
            publish = self._transport.publish([outgoing for _, outgoing in batch], timeout_s=timeout_s)
            outcomes, _ = await asyncio.gather(publish, _published())
        except BrokerUnavailable as error:
            outcomes = error.outcomes or outcomes
            raise
        finally:
            self._sort(batch, outcomes)
        failpoint("dispatch.after_confirm")

    def _sort(self, batch: Sequence[tuple[str, Outgoing]], outcomes: Sequence[Outcome | None]) -> None:
        """To the settled or back to the waiting; what was forgotten meanwhile is the relay's."""
        known = [(letter, outcome) for letter, outcome in zip(batch, outcomes, strict=True) if letter[0] in self._known]
        self._settling += [(*letter, outcome) for letter, outcome in known if outcome is not None]
        again = [letter for letter, outcome in known if outcome is None]
        if again:  # before whatever came after them, also what a second batch brought back
            self._waiting = deque(sorted([*again, *self._waiting], key=lambda letter: self._known[letter[0]]))
        self._settle.set()

    async def _read_own(self) -> None:
        owner = self._owner.id
        gone: set[str] = set()
        self._gone = gone
        self._must_sweep = False  # before the rows are read: what is committed meanwhile asks for another sweep
        try:
            async with self._database.transaction(read_only=True) as connection:
                rows = await outbox.owned(connection, owner, limit=HELD_MAX // 2)
        except BaseException:
            self._must_sweep = True
            raise
        self._must_sweep = self._must_sweep or len(rows) == HELD_MAX // 2
        self.dispatch([row for row in rows if row[0] not in gone], owner)
        self._gone = None
        if self._must_sweep and not self._waiting:
            await self._clock.sleep(0.1)  # all of them are on their way: settle first

    async def _settle_next(self) -> None:
        while self._settling:
            await self._gather_more()
            settling, self._settling = self._settling, []
            owner = self._owner.id
            try:
                await self._write_off(owner, settling)
            except BaseException:
                if owner == self._owner.id:
                    self._settling = settling + self._settling
                raise
            ids = [id_ for id_, _, _ in settling]
            if self._gone is not None:
                self._gone.update(ids)
            for id_ in ids:
                self._known.pop(id_, None)
            failpoint("dispatch.after_settle")

    async def _gather_more(self) -> None:
        """Under a steady load one transaction deletes what some twenty would; a row that stands a little longer harms nobody."""
        if self._database.dialect == "postgresql" and len(self._settling) < BATCH_MAX and not self._is_stopping:
            await self._clock.sleep(GATHER_S)

    async def _write_off(self, owner: str, settling: Sequence[tuple[str, Outgoing, Outcome]]) -> None:
        unrouted = [id_ for id_, sent, outcome in settling if isinstance(outcome, Returned) and sent.exchange == self.events]
        homeless = [id_ for id_, sent, outcome in settling if isinstance(outcome, Returned) and sent.exchange != self.events]
        confirmed = [id_ for id_, _, outcome in settling if isinstance(outcome, Confirmed)]
        nacked = [(id_, outcome) for id_, _, outcome in settling if not isinstance(outcome, Confirmed | Returned)]
        for id_, outcome in nacked:
            logger.warning("the broker refused message %s: %s. It is sent again later", id_, outcome)
        for id_ in homeless:
            logger.warning("no queue is bound for message %s. It is sent again later", id_)
        async with self._database.transaction() as connection:
            await outbox.remove(connection, owner, confirmed + unrouted)
            await outbox.mark_unrouted(connection, unrouted)
            await outbox.postpone(connection, owner, homeless, wait_us=RETURNED_WAIT_US)
            await outbox.postpone(connection, owner, [id_ for id_, _ in nacked], wait_us=NACKED_WAIT_US)
        if unrouted:
            self._unrouted.inc(len(unrouted))
            self.on_unrouted()


async def _published() -> None:
    """The moment when the batch has been handed to the broker and nothing is confirmed yet."""
    if armed():
        for _ in range(TURNS_TO_WRITE):
            await asyncio.sleep(0)
        failpoint("dispatch.after_publish")
