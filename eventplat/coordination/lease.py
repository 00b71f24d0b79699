"""Lease: who may act for a name, on the database's clock, with a token that only grows.

Term      a lease is its holder's until `until_us` on the clock of the database it lives in, the one clock that all who
          stand for it share. Whoever asks after that takes it; until then only its holder renews it.
Token     grows each time the lease is taken, by its former holder too. Renewing keeps it, releasing keeps it.
Own clock a holder counts from just before it asked, on its monotonic clock, and stops at two thirds of the term: what
          happens to wall clocks changes nothing, and an answer that never came counts for nothing. What has lapsed so is
          let go, not revived: it is taken anew, with a new token.
Fence     a process that is paused cannot see that its term has passed; it may go on in the middle of a write. So a
          protected write begins with `fence`, in its own transaction and in the database that it writes to: the
          first write under a newer token shuts out all older ones. What cannot check is unfenced, and must say so.

Source    Gray & Cheriton, Leases (SOSP 1989); Kleppmann, Designing Data-Intensive Applications (2017), 8.4.

Next: coordination.share
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, ColumnElement, Table, Text, case, delete, null, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from eventplat.clock import Clock
from eventplat.errors import StaleLease
from eventplat.hashing import bucket_of
from eventplat.storage.database import Database
from eventplat.storage.tables import bucket, now_us, platform

lease = Table(
    "eventplat_lease",
    platform,
    Column("name", Text, primary_key=True),
    bucket(),
    Column("holder", Text, nullable=True),
    Column("token", BigInteger, nullable=False),
    Column("until_us", BigInteger, nullable=False),
)

_fence = Table(
    "eventplat_fence",
    platform,
    Column("name", Text, primary_key=True),
    bucket(),
    Column("token", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class _Held:
    token: int
    since_s: float                 # monotonic, just before it was asked for


@dataclass(frozen=True, slots=True)
class Standing:
    """One lease as everybody sees it; `holder` is None where its term has passed, or nobody has taken it."""

    name: str
    holder: str | None


class Leases:
    """The leases of one holder in one database.

    Args:
        holder: Unique to this run of this process: two that share it would renew each other's.
        term_s: How long a lease lasts without being renewed. Renew at least three times in it.
        clock: Only its monotonic side is read.
    """

    def __init__(self, database: Database, holder: str, *, term_s: float, clock: Clock) -> None:
        self.holder, self.term_s = holder, term_s
        self._database, self._clock = database, clock
        self._held: dict[str, _Held] = {}

    @property
    def names(self) -> frozenset[str]:
        """Everything that was taken and neither released nor found to be lost."""
        return frozenset(self._held)

    def holds(self, name: str) -> bool:
        """Whether this process may act for `name` now: for two thirds of a term after it was last renewed."""
        return self.remaining_s(name) > 0

    def remaining_s(self, name: str) -> float:
        """Seconds for which it may still act for `name`; 0 where it may not."""
        held = self._held.get(name)
        return 0.0 if held is None else max(held.since_s + self.term_s * 2 / 3 - self._clock.monotonic(), 0.0)

    def token(self, name: str) -> int:
        """The fencing token that this process acts for `name` with.

        Raises:
            StaleLease: It does not hold it, or has not been able to renew it for two thirds of its term.
        """
        if not self.holds(name):
            held = self._held.get(name)
            raise StaleLease(lease=name, held=None if held is None else held.token)
        return self._held[name].token

    async def take(self, names: Collection[str]) -> frozenset[str]:
        """Take those of `names` that nobody holds, or that this process holds itself; returns them.

        Raises:
            DatabaseUnavailable, CommitUnknown: None is held by this call; asking again settles it.
        """
        if not names:
            return frozenset()
        since_s = self._clock.monotonic()
        rows = [
            {"name": name, "bucket": bucket_of(name), "holder": self.holder, "token": 1, "until_us": self._until_us()}
            for name in sorted(names)  # in one order, so that two that stand for several do not deadlock
        ]
        taken = postgresql.insert(lease).values(rows)
        taken = taken.on_conflict_do_update(
            index_elements=[lease.c.name],
            set_={"holder": self.holder, "token": lease.c.token + 1, "until_us": self._until_us()},
            where=or_(lease.c.until_us <= now_us(), lease.c.holder == self.holder),
        )
        async with self._database.transaction() as connection:
            found = (await connection.execute(taken.returning(lease.c.name, lease.c.token))).all()
        self._held |= {row.name: _Held(row.token, since_s) for row in found}
        return frozenset(row.name for row in found)

    async def renew(self) -> frozenset[str]:
        """Renew everything that is held; returns what was lost since the last call.

        Raises:
            DatabaseUnavailable, CommitUnknown: Nothing is known; `holds` goes on counting from the last success.
        """
        lapsed = frozenset(name for name in self._held if not self.holds(name))
        self._held = {name: held for name, held in self._held.items() if name not in lapsed}
        if not self._held:
            return lapsed
        since_s = self._clock.monotonic()
        mine = select(lease.c.name).where(self._is_mine(self._held), lease.c.until_us > now_us())
        in_order = mine.order_by(lease.c.name).with_for_update().scalar_subquery()
        renewed = update(lease).where(lease.c.name.in_(in_order)).values(until_us=self._until_us()).returning(lease.c.name)
        async with self._database.transaction() as connection:
            kept = {row.name for row in await connection.execute(renewed)}
        lost = lapsed | (self._held.keys() - kept)
        self._held = {name: _Held(held.token, since_s) for name, held in self._held.items() if name in kept}
        return lost

    async def release(self, names: Collection[str]) -> None:
        """Let others have `names` at once. Not held from the first line on, whatever the database says."""
        held = {name: self._held.pop(name) for name in names if name in self._held}
        if held:
            async with self._database.transaction() as connection:
                await connection.execute(update(lease).where(self._is_mine(held)).values(holder=None, until_us=0))

    def _until_us(self) -> ColumnElement[int]:
        return now_us() + int(self.term_s * 1_000_000)

    def _is_mine(self, held: dict[str, _Held]) -> ColumnElement[bool]:
        return tuple_(lease.c.name, lease.c.token).in_([(name, each.token) for name, each in held.items()]) & (
            lease.c.holder == self.holder
        )


async def fence(connection: AsyncConnection, name: str, token: int) -> None:
    """The first statement of a protected write: shut out everybody with an older token, or be shut out.

    Holds the fence's row until the transaction ends, so that the writes of one lease go one after the other.

    Raises:
        StaleLease: Somebody has written with a newer token. Nothing of this transaction may be committed.
    """
    row = postgresql.insert(_fence).values(name=name, bucket=bucket_of(name), token=token)
    row = row.on_conflict_do_update(index_elements=[_fence.c.name], set_={"token": token}, where=_fence.c.token <= token)
    if (await connection.execute(row.returning(_fence.c.token))).first() is None:
        current: int = (await connection.execute(select(_fence.c.token).where(_fence.c.name == name))).scalar_one()
        raise StaleLease(lease=name, held=token, current=current)


async def standings(connection: AsyncConnection, prefix: str) -> list[Standing]:
    """Every lease whose name begins with `prefix`, by name."""
    holder = case((lease.c.until_us > now_us(), lease.c.holder), else_=null())
    found = select(lease.c.name, holder.label("holder")).where(_begins(prefix)).order_by(lease.c.name)
    return [Standing(row.name, row.holder) for row in await connection.execute(found)]


async def announce(connection: AsyncConnection, names: Sequence[str]) -> None:
    """Let everybody see that there are these leases; what is there stays as it is."""
    rows = [{"name": name, "bucket": bucket_of(name), "holder": None, "token": 0, "until_us": 0} for name in sorted(names)]
    if rows:
        await connection.execute(postgresql.insert(lease).values(rows).on_conflict_do_nothing())


async def forget(connection: AsyncConnection, prefix: str, *, silent_s: float) -> None:
    """Delete the leases whose name begins with `prefix` and whose term has passed for `silent_s` seconds.

    Their tokens begin anew: only for names that no write is protected by.
    """
    await connection.execute(delete(lease).where(_begins(prefix), lease.c.until_us <= now_us() - int(silent_s * 1_000_000)))


def _begins(prefix: str) -> ColumnElement[bool]:
    return lease.c.name.startswith(prefix, autoescape=True)
