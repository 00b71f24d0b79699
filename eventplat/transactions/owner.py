"""Owner: this process as the owner of outbox rows, alive on the database's clock.

A row of `process` says until when. The process renews it three times a term. When its own last renewal is
older than two thirds of the term it stops publishing, since the relay of another process may soon adopt its
rows; when the term has passed it comes back under a new id, so that it never settles rows it has lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from sqlalchemy import BigInteger, Column, Table, Text, delete, update
from sqlalchemy.dialects import postgresql

from eventplat.clock import Clock
from eventplat.hashing import bucket_of
from eventplat.lifecycle import Loop
from eventplat.storage.database import Database
from eventplat.storage.tables import UUID, bucket, now_us, platform

logger = logging.getLogger(__name__)

process = Table(
    "eventplat_process",
    platform,
    Column("id", UUID, primary_key=True),
    bucket(),
    Column("epoch", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("alive_until_us", BigInteger, nullable=False),
)


class Owner:
    """Keeps this process's row alive.

    Args:
        is_only: No other process can be alive on this database (the embedded mode): rows left by an earlier run are
            free at once, and a late renewal loses nothing. SQLite's one writer may be a handler for long.
    """

    def __init__(
        self, database: Database, name: str, *, new_id: Callable[[], str], term_s: float, clock: Clock, is_only: bool = False
    ) -> None:
        self.id = new_id()
        self._database, self._name, self._new_id, self._term_s, self._clock = database, name, new_id, term_s, clock
        self._is_only = is_only
        self._renewed = float("-inf")
        self._on_lost: list[Callable[[], None]] = []
        self._loop = Loop(f"{name} owner", self._renew, every_s=term_s / 3, clock=clock, slowest_s=term_s / 6)

    def on_lost(self, forget: Callable[[], None]) -> None:
        """Call `forget` when this process had to take a new id: what it owned belongs to the relay."""
        self._on_lost.append(forget)

    @property
    def may_publish(self) -> bool:
        """Whether the last renewal is fresh enough that nobody can have adopted our rows."""
        return self._is_only or self._clock.monotonic() - self._renewed < self._term_s * 2 / 3

    async def start(self) -> None:
        if self._is_only:
            async with self._database.transaction() as connection:
                await connection.execute(delete(process))
        await self._renew()
        await self._loop.start()

    async def stop(self) -> None:
        """Stop renewing and give what is left to the relays of others."""
        await self._loop.stop()
        async with self._database.transaction() as connection:
            await connection.execute(delete(process).where(process.c.id == self.id))
        self._renewed = float("-inf")

    async def _renew(self) -> None:
        started = self._clock.monotonic()
        is_late = started - self._renewed > self._term_s and not self._is_only
        if is_late or self._renewed == float("-inf"):
            await self._begin()
        else:
            async with self._database.transaction() as connection:
                alive = now_us() + int(self._term_s * 1_000_000)
                renewed = update(process).where(process.c.id == self.id).values(alive_until_us=alive)
                found = (await connection.execute(renewed.returning(process.c.id))).first()
            if found is None:  # somebody removed the row
                await self._begin()
        self._renewed = started

    async def _begin(self) -> None:
        if self._renewed != float("-inf"):
            logger.warning("%s was away for longer than its term of %.1f s: what it owned goes to the relay", self._name, self._term_s)
            self.id = self._new_id()
            for forget in self._on_lost:
                forget()
        async with self._database.transaction() as connection:
            await connection.execute(delete(process).where(process.c.alive_until_us < now_us() - int(self._term_s * 10_000_000)))
            alive = now_us() + int(self._term_s * 1_000_000)
            values = {"id": self.id, "bucket": bucket_of(self.id), "epoch": now_us(), "name": self._name, "alive_until_us": alive}
            row = postgresql.insert(process).values(**values)
            await connection.execute(row.on_conflict_do_update(index_elements=[process.c.id], set_={"alive_until_us": alive}))
