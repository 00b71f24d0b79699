"""Relay: publish what the outbox promised and nobody is left to send.

Adopts, in a short transaction, the rows whose owner has died and the delayed ones that are due, makes
them this process's own and hands them to dispatch. Nothing is published inside a transaction, and rows of
a living owner are never touched: a slow broker cannot make two processes send the same rows.

Source    Richardson, Microservices Patterns (2018), 3.3.7.

Next: transactions.dispatch
"""

from __future__ import annotations

from eventplat.clock import Clock
from eventplat.failpoints import failpoint
from eventplat.lifecycle import Loop
from eventplat.storage.database import Database
from eventplat.transactions import outbox
from eventplat.transactions.dispatch import Dispatcher
from eventplat.transactions.owner import Owner

BATCH = 500
EVERY_S = 1.0


class Relay:
    """Looks for rows to adopt: every second, and when the next delayed one is due."""

    def __init__(self, database: Database, owner: Owner, dispatcher: Dispatcher, clock: Clock) -> None:
        self._database, self._owner, self._dispatcher = database, owner, dispatcher
        self._loop = Loop("relay", self.run_once, every_s=EVERY_S, clock=clock)

    async def start(self) -> None:
        await self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()

    def wake(self) -> None:
        """Look now: a delayed send was committed."""
        self._loop.wake()

    async def run_once(self) -> float | None:
        """Adopt one batch; returns seconds until there may be more."""
        if not self._owner.may_publish:
            return 0.2
        owner = self._owner.id
        async with self._database.transaction() as connection:
            adopted = await outbox.adopt(connection, owner, limit=BATCH)
            due_us = await outbox.next_due_us(connection)
            now = await self._database.now_us(connection) if due_us is not None else 0
        if adopted:
            failpoint("relay.claimed")
            self._dispatcher.dispatch(adopted, owner)
        if len(adopted) == BATCH:
            return 0.0
        return EVERY_S if due_us is None else min(EVERY_S, max(due_us - now, 0) / 1_000_000)


