"""Unrouted: what nobody subscribed to is sent once somebody does.

An event that reached no queue stands in the log, marked. When a service announces a handler for its type, and so has bound a
queue, the events of that type go back into the outbox, oldest first, and take the way of every other row from there.

Once      the mark goes and the outbox row comes in one transaction, so that of several instances one sends them.
Crash     before the confirm: the relay of another instance adopts the row. A copy that went out meanwhile is the inbox's.
Returned  once more: the row goes and the mark comes back, until somebody is announced again.
Race      an event may come back just when its handler is announced, and be marked a moment after we looked. So we look
          again, as long as an announcement is young.
Away      an announcement that came while no instance of this service ran: whoever starts with marked events asks who is there.

Next: transactions.dispatch
"""

from __future__ import annotations

from eventplat.clock import Clock
from eventplat.discovery.instance import Manifest
from eventplat.lifecycle import Loop
from eventplat.storage.database import Database
from eventplat.transactions import outbox
from eventplat.transactions.dispatch import Dispatcher
from eventplat.transactions.owner import Owner

BATCH = 500
EVERY_S = 1.0      # between two looks for the same types
YOUNG_S = 10.0     # an announcement; a broker that answers later than this is away


class Unrouted:
    """The events of one service that are waiting for somebody to want them."""

    def __init__(self, database: Database, owner: Owner, dispatcher: Dispatcher, service: str, clock: Clock) -> None:
        self._database, self._owner, self._dispatcher = database, owner, dispatcher
        self._service, self._clock = service, clock
        self._wanted: dict[str, str] = {}                     # streams, by type
        self._heard: dict[str, tuple[str, float]] = {}        # stream and when, by type
        self._is_marked = False                               # since the last look
        self._loop = Loop("unrouted", self.run_once, every_s=EVERY_S, clock=clock)
        dispatcher.on_unrouted = self._marked

    async def start(self) -> None:
        await self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()

    async def has_any(self) -> bool:
        """Whether there are events that reached nobody."""
        async with self._database.transaction(read_only=True) as connection:
            return await outbox.has_unrouted(connection)

    def hear(self, manifest: Manifest) -> None:
        """A service is there that takes what `manifest` says."""
        for handler in manifest.handlers:
            if handler.kind != "event":
                continue
            for type_ in (handler.type, *handler.reads):
                owner, _, rest = type_.partition(".")
                if owner in (self._service, "*"):
                    own = f"{self._service}.{rest}"
                    self._wanted[own], self._heard[own] = handler.stream, (handler.stream, self._clock.monotonic())
        if self._wanted:
            self._loop.wake()

    async def run_once(self) -> float | None:
        """Let go all events of the types that are wanted."""
        if self._is_marked:
            self._is_marked, young = False, self._clock.monotonic() - YOUNG_S
            self._heard = {type_: heard for type_, heard in self._heard.items() if heard[1] > young}
            self._wanted |= {type_: stream for type_, (stream, _) in self._heard.items()}
        if not self._wanted:
            return None
        if not self._owner.may_publish:
            return 0.2
        wanted = dict(self._wanted)
        while await self._let_go(wanted) == BATCH:
            pass
        self._wanted = {type_: stream for type_, stream in self._wanted.items() if type_ not in wanted}
        return None

    async def _let_go(self, wanted: dict[str, str]) -> int:
        owner = self._owner.id
        async with self._database.transaction() as connection:
            letters = await outbox.reopen(connection, owner, wanted, exchange=self._dispatcher.events, limit=BATCH)
        self._dispatcher.dispatch(letters, owner)
        return len(letters)

    def _marked(self) -> None:
        self._is_marked = True
