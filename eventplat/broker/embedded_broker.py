"""The embedded broker: one per journal and process, shared by everybody who opens a transport on it.

It lives while anybody has it open. The first to open loads the journal, the last to close closes it; what was not
settled then comes again to whoever opens next. A second process is refused (`EmbeddedBrokerBusy`).

    embedded:///data/broker.db     every transport of this process with this path: one broker
    embedded://                    one broker in memory per process, empty again after the last close
    EmbeddedBroker(None, ...)      one in memory for whoever holds the object, over closes and loops

Next: broker.embedded_turn
"""

from __future__ import annotations

from itertools import count
from pathlib import Path

from eventplat.broker import embedded_topology
from eventplat.broker.embedded_journal import Journal
from eventplat.broker.embedded_kombu import Held
from eventplat.broker.embedded_queue import Copy
from eventplat.broker.embedded_turn import Turns
from eventplat.broker.topology import Topology
from eventplat.clock import Clock
from eventplat.errors import BrokerUnavailable, EmbeddedBrokerBusy

_shared: dict[Path | None, EmbeddedBroker] = {}


class EmbeddedBroker:
    """Exchanges and queues in one process.

    Args:
        path: Of the journal; None: memory only.
        clock: For expiry, and for trying a full disk again.
    """

    def __init__(self, path: Path | None = None, *, clock: Clock) -> None:
        self.path, self._clock = path, clock
        self._held = Held()
        self._members: set[object] = set()
        self._journal: Journal | None = None
        self._turns: Turns | None = None

    @property
    def turns(self) -> Turns:
        """What everybody works with.

        Raises:
            BrokerUnavailable: Nobody has it open.
        """
        if self._turns is None:
            raise BrokerUnavailable("the embedded broker is closed")
        return self._turns

    @property
    def is_stale(self) -> bool:
        """Its loop ended without closing it."""
        return self._turns is not None and self._turns.is_stale

    def join(self, member: object) -> None:
        """Open it, if `member` is the first.

        Raises:
            EmbeddedBrokerBusy: Another process has the journal open, or another loop of this one the broker.
            BrokerUnavailable: The journal cannot be opened or read.
        """
        if self.is_stale:
            self.abandon()
        if self._turns is None:
            self._open()
        elif self._turns.is_elsewhere:
            raise EmbeddedBrokerBusy(f"another loop of this process has the embedded broker {self.path or 'in memory'} open")
        self._members.add(member)

    def leave(self, member: object) -> None:
        """Close it, if `member` is the last."""
        self._members.discard(member)
        if not self._members and self._turns is not None:
            self._turns.close()
            self._shut()

    def abandon(self) -> None:
        """Close what a loop left open when it ended; what was noted and not written is lost, as in a kill."""
        self._members.clear()
        self._shut()

    def declare(self, topology: Topology) -> None:
        """As `Transport.declare`."""
        embedded_topology.declare(self.turns.router, topology, self._journal)
        self.turns.declared()

    def _open(self) -> None:
        if self.path is not None:
            self._journal, self._held = Journal(self.path), Held()
        try:
            self._turns = Turns(self._held, self._clock, self._journal)
            if self._journal is not None:
                self._load(self._journal, self._turns)
        except BaseException:
            self._shut()
            raise

    def _load(self, journal: Journal, turns: Turns) -> None:
        """Everything that was confirmed and not acked, in order; what had been handed out, counted."""
        exchanges, queues = journal.topology()
        embedded_topology.apply(turns.router, exchanges, queues, is_journaled=True)
        last = 0
        for stored in journal.messages():
            queue, last = turns.queues[stored.queue], stored.id
            copy = Copy(stored.id, queue, stored.message, expires_us=stored.expires_us)
            copy.deliveries, copy.is_on_disk = stored.deliveries, True
            queue.put(copy)
        turns.ids = count(last + 1)
        for queue in list(turns.queues.values()):
            turns.bury_spent(queue)

    def _shut(self) -> None:
        self._turns = None
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        if _shared.get(self.path) is self:
            del _shared[self.path]


def shared(path: Path | None, *, clock: Clock) -> EmbeddedBroker:
    """The broker of this process for `path`; one that nobody has open yet is made anew."""
    if path is not None:
        path = path.resolve()
    broker = _shared.get(path)
    if broker is None or broker.is_stale:
        if broker is not None:
            broker.abandon()
        broker = _shared[path] = EmbeddedBroker(path, clock=clock)
    return broker
