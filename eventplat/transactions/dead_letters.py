"""Dead letters: what an operator sees of the messages that failed, and does to them. SQL on `pending` alone.

    found   = await groups(connection, Where(error="ValueError"))
    keys    = await keys(connection, Where(handler="shop.add"))          # frozen: what fails meanwhile is not acted on
    done    = await replay(connection, keys[:CHUNK], by="ana", first_us=now, gap_us=20_000)

Replay    the row becomes a retry, due in its turn of the rate, with its attempts before it again: any instance of the
          service runs it, and nobody has to stay for that. Nothing is republished.
Edit      another body under the same id; the former one stays in the row's history.
Discard   the row goes. A copy that comes late is not run either (a tombstone in the inbox), and what an ordered handler
          holds behind it goes on without it.
Parked    what came as no message has no place in any handler: it can be read and discarded, nothing else.

Whoever acts locks the rows he acts on and passes by those that somebody else holds.

Next: service.dead_letters
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Row, and_, bindparam, case, func, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from eventplat.storage.tables import now_us
from eventplat.transactions import inbox, watermark
from eventplat.transactions.attempts import EDITED, action_record, with_entry
from eventplat.transactions.pending import Pending, PendingState, pending, read, remove, stands_as

CHUNK = 200      # rows of one transaction

Key: TypeAlias = tuple[str, str]
"""Of a row: its handler's identity and its message id."""


@dataclass(frozen=True, slots=True)
class Where:
    """Which rows are meant; what is None or empty is not asked about.

    Attributes:
        text: Stands in the row's errors, in any case of letters.
        since_us: Failed last at or after this, microseconds since 1970.
    """

    handler: str | None = None
    error: str | None = None
    place: str | None = None
    text: str | None = None
    since_us: int | None = None
    message_ids: tuple[str, ...] = ()
    states: tuple[PendingState, ...] = ("dead",)

    def condition(self) -> ColumnElement[bool]:
        """As SQL."""
        met: list[ColumnElement[bool]] = [or_(*(stands_as(state) for state in self.states))]
        equal = {pending.c.handler: self.handler, pending.c.error: self.error, pending.c.place: self.place}
        met += [column == value for column, value in equal.items() if value is not None]
        if self.text is not None:
            met.append(pending.c.errors.icontains(json.dumps(self.text)[1:-1], autoescape=True))  # as JSON writes it
        if self.since_us is not None:
            met.append(func.coalesce(pending.c.failed_us, pending.c.created_us) >= self.since_us)
        if self.message_ids:
            met.append(pending.c.message_id.in_(self.message_ids))
        return and_(*met)


@dataclass(frozen=True, slots=True)
class Group:
    """Messages that failed in one handler, by one type of error, at one place in the user's code."""

    handler: str
    error: str | None
    place: str | None
    count: int
    oldest_us: int
    newest_us: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How many messages of a handler stand in one state, how many of them are due, and since when the oldest does."""

    handler: str
    state: PendingState
    count: int
    due: int
    oldest_us: int


async def find(connection: AsyncConnection, where: Where, *, limit: int) -> list[Pending]:
    """Up to `limit` rows, the newest failures first."""
    newest = func.coalesce(pending.c.failed_us, pending.c.created_us).desc()
    found = select(pending).where(where.condition()).order_by(newest, pending.c.message_id.desc()).limit(limit)
    return [read(row) for row in await connection.execute(found)]


async def groups(connection: AsyncConnection, where: Where) -> list[Group]:
    """The rows by handler, error and place; the largest group first."""
    failed = func.coalesce(pending.c.failed_us, pending.c.created_us)
    by = (pending.c.handler, pending.c.error, pending.c.place)
    count = func.count()
    found = (
        select(*by, count.label("n"), func.min(failed).label("oldest"), func.max(failed).label("newest"))
        .where(where.condition())
        .group_by(*by)
        .order_by(count.desc(), *by)
    )
    return [Group(row.handler, row.error, row.place, row.n, row.oldest, row.newest) for row in await connection.execute(found)]


async def standings(connection: AsyncConnection) -> list[Standing]:
    """How every handler's unsettled messages stand."""
    due = func.count(case((pending.c.due_us <= now_us(), 1)))
    counted = (func.count().label("n"), due.label("due"), func.min(pending.c.created_us).label("oldest"))
    found = (
        select(pending.c.handler, pending.c.state, *counted)
        .group_by(pending.c.handler, pending.c.state)
        .order_by(pending.c.handler, pending.c.state)
    )
    return [Standing(row.handler, row.state, row.n, row.due, row.oldest) for row in await connection.execute(found)]


async def keys(connection: AsyncConnection, where: Where) -> list[Key]:
    """The rows that `where` means at this moment, in the order of their messages."""
    found = select(pending.c.handler, pending.c.message_id).where(where.condition()).order_by(pending.c.seq, pending.c.message_id)
    return [(row.handler, row.message_id) for row in await connection.execute(found)]


async def edit(connection: AsyncConnection, key: Key, body: bytes, *, by: str, at_us: int) -> bool:
    """Give a dead message another body, under its id; False where no such message is dead."""
    for row in await _locked(connection, [key], ("dead",)):
        entry = action_record(EDITED, by=by, now_us=at_us, body=bytes(row.body).decode(errors="backslashreplace"))
        changed = {"body": body, "errors": json.dumps(with_entry(json.loads(row.errors), entry))}
        await connection.execute(update(pending).where(*_is(key)).values(changed))
        return True
    return False


async def replay(connection: AsyncConnection, keys: Sequence[Key], *, by: str, at_us: int, first_us: int, gap_us: int) -> list[Key]:
    """Let dead messages run again, one every `gap_us` from `first_us` on (the database's clock), in the order of `keys`.

    Returns:
        Those that will; not those that are no longer dead, or that somebody else acts on.
    """
    entry = action_record("replayed", by=by, now_us=at_us)
    rows = {(row.handler, row.message_id): row for row in await _locked(connection, keys, ("dead",))}
    there = [key for key in keys if key in rows and not read(rows[key]).is_parked]
    changes = [
        {
            "b_handler": key[0], "b_message_id": key[1], "b_due_us": first_us + position * gap_us,
            "b_errors": json.dumps(with_entry(json.loads(rows[key].errors), entry)),
        }
        for position, key in enumerate(there)
    ]  # fmt: skip
    if changes:
        await connection.execute(_REPLAY, changes)
    return there


async def discard(connection: AsyncConnection, keys: Sequence[Key], *, is_final: bool) -> list[Key]:
    """Forget dead or isolated messages.

    Args:
        is_final: No copy may run either. False for a command whose asker may ask for it again.

    Returns:
        Those that are gone; not those that are settled, or running now.
    """
    gone = []
    for row in await _locked(connection, keys, ("dead", "isolated")):
        await remove(connection, row.handler, row.message_id)
        gone.append((row.handler, row.message_id))
        if read(row).is_parked:
            continue
        if is_final:
            for consumer in {row.handler, row.handler.partition(".")[0]}:  # an event's is its handler, a command's its service
                await inbox.bury(connection, consumer, row.message_id, row.bucket)
        await _go_on_without(connection, row)
    return gone


async def skip(connection: AsyncConnection, key: Key, *, by: str, at_us: int) -> bool:
    """Let a held message go without the one it waits for; False where no such message is held."""
    for row in await _locked(connection, [key], ("held",)):
        noted = with_entry(json.loads(row.errors), action_record("skipped to", by=by, now_us=at_us))
        await connection.execute(update(pending).where(*_is(key)).values(errors=json.dumps(noted)))
        return await watermark.skip(connection, *key)
    return False


async def _go_on_without(connection: AsyncConnection, row: Row[Any]) -> None:
    """Let an ordered handler pass over `row`, now or when it comes to it, and let go what it holds behind it."""
    if row.key is None or row.seq is None:
        return
    if await watermark.horizon(connection, row.handler):  # else it is not ordered
        envelope = read(row).envelope()
        if await watermark.advance(connection, row.handler, envelope) == "apply":
            await watermark.release(connection, row.handler, envelope)
            return
    same = [column.is_not_distinct_from(getattr(row, column.name)) for column in (pending.c.source, pending.c.stream, pending.c.key)]
    behind = select(pending.c.message_id).where(stands_as("held"), pending.c.handler == row.handler, *same, pending.c.prev == row.seq)
    for held in (await connection.execute(behind)).all():
        await watermark.skip(connection, row.handler, held.message_id)


async def _locked(connection: AsyncConnection, keys: Sequence[Key], states: Sequence[PendingState]) -> Sequence[Row[Any]]:
    if not keys:
        return []
    meant = tuple_(pending.c.handler, pending.c.message_id).in_(keys)
    found = select(pending).where(meant, or_(*(stands_as(state) for state in states))).with_for_update(skip_locked=True)
    rows: Sequence[Row[Any]] = (await connection.execute(found)).all()
    return rows


def _is(key: Key) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return pending.c.handler == key[0], pending.c.message_id == key[1]


_REPLAY = (
    update(pending)
    .where(pending.c.handler == bindparam("b_handler"), pending.c.message_id == bindparam("b_message_id"))
    .values(state="retry", attempts=0, due_us=bindparam("b_due_us"), errors=bindparam("b_errors"))
)
