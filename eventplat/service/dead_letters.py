"""Dead letters of one service, for an operator: listed, grouped, shown, edited, replayed, discarded.

    async with Client("shop") as client:
        for group in await client.dead_letters.groups(since=timedelta(hours=2)):
            print(group.count, group.handler, group.error, group.place)
        await client.dead_letters.replay(handler="shop.add", error="Timeout", rate=20)

The command line does the same (`eventplat dlq`). Whatever changes something acts on the messages that were there when it
was called, a few hundred to a transaction, so that after a kill the same call goes on; it writes into each message's
history who did what.

Next: transactions.dead_letters
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypedDict

from typing_extensions import Unpack

from eventplat.broker.topology import Names
from eventplat.clock import Clock
from eventplat.errors import NoSuchMessage
from eventplat.messages.message import Message
from eventplat.retry import Duration, seconds
from eventplat.sagas.stuck import why_not_awaited
from eventplat.service.edits import Edit, check, diff_of
from eventplat.settings import Settings
from eventplat.storage.database import Database
from eventplat.storage.services import services_of
from eventplat.transactions import dead_letters, watermark
from eventplat.transactions.dead_letters import CHUNK, Group, Key, Where
from eventplat.transactions.pending import Pending, PendingState

PARKED = "it came as no message, so no handler would take it"


class Selection(TypedDict, total=False):
    """Which messages are meant; all that is given must hold.

    Keys:
        handler: Its identity, as "shop.add" or "mail.on-order-placed".
        error: Type of the newest error, as "ValueError".
        place: Where it was raised, as `groups` tells it.
        text: Stands in one of its errors, in any case of letters.
        since: Failed last after this moment, or this long ago.
        state: Default "dead".
    """

    handler: str | None
    error: str | None
    place: str | None
    text: str | None
    since: datetime | Duration | None
    state: PendingState | Literal["any"]


@dataclass(frozen=True)
class Done:
    """What became of each message that was meant."""

    done: tuple[Key, ...]                                     # handler and message id
    refused: Mapping[Key, str] = field(default_factory=dict)  # and why

    @property
    def count(self) -> int:
        return len(self.done)


class DeadLetters:
    """Of the service whose database this is.

    Args:
        by: Who acts; default: the user of this process.
    """

    def __init__(self, database: Database, settings: Settings, clock: Clock, *, by: str | None = None) -> None:
        self._database, self._settings, self._clock = database, settings, clock
        self._names = Names(settings.prefix)
        self.by = by or operator()

    async def list(self, *message_ids: str, limit: int = 100, **selection: Unpack[Selection]) -> list[Pending]:
        """Up to `limit` messages, the newest failures first."""
        async with self._database.transaction(read_only=True) as connection:
            return await dead_letters.find(connection, self._where(message_ids, selection), limit=limit)

    async def groups(self, **selection: Unpack[Selection]) -> Sequence[Group]:
        """By handler, error and place, the largest first."""
        async with self._database.transaction(read_only=True) as connection:
            return await dead_letters.groups(connection, self._where((), selection))

    async def show(self, message_id: str, *, handler: str | None = None) -> Pending:
        """One message, in whatever state, with every attempt.

        Raises:
            NoSuchMessage: There is none, or it stands in several handlers and none is named.
        """
        found = await self.list(message_id, handler=handler, state="any")
        if len(found) != 1:
            handlers = ", ".join(sorted(row.handler for row in found))
            raise NoSuchMessage(f"message {message_id} " + (f"stands in {handlers}" if found else f"is not in {self._database.service}"))
        return found[0]

    async def select(self, *message_ids: str, **selection: Unpack[Selection]) -> Sequence[Key]:
        """Those of the named messages that the selection means, for `keys=`; without ids all that it means."""
        async with self._database.transaction(read_only=True) as connection:
            return await dead_letters.keys(connection, self._where(message_ids, selection))

    async def edit(
        self, message_id: str, body: bytes | str, *, against: type[Message], handler: str | None = None, dry_run: bool = False
    ) -> Edit:
        """Give a dead message another body, under the same id; its former body is kept in its history.

        Args:
            against: The class that the body must be of.

        Raises:
            NoSuchMessage: It is not dead.
            BadEdit: The body is not of that class, or has another key: the key decides its place and order.
        """
        row = await self.show(message_id, handler=handler)
        if row.state != "dead" or row.is_parked:
            raise NoSuchMessage(f"message {message_id} is {'no message' if row.is_parked else row.state}: only dead messages are edited")
        new = body.encode() if isinstance(body, str) else body
        check(row, new, against)
        edit = Edit(row, diff_of(row.body, new))
        if edit.diff and not dry_run:
            async with self._database.transaction() as connection:
                key = (row.handler, row.message_id)
                if not await dead_letters.edit(connection, key, new, by=self.by, at_us=self._clock.time_us()):
                    raise NoSuchMessage(f"message {message_id} is no longer dead")
        return edit

    async def replay(
        self, *message_ids: str, rate: float | None = None, dry_run: bool = False, keys: Sequence[Key] | None = None,
        **selection: Unpack[Selection],
    ) -> Done:  # fmt: skip
        """Let dead messages run again; without ids and selection: all of them.

        A command of a saga is refused unless its saga stands in the operator state for it (`sagas.stuck`).

        Args:
            rate: Messages a second; they become due one after the other, also when this process has ended. Default: all now.
            dry_run: Change nothing; returns what would be done.
            keys: Exactly these, as `select` or a dry run returned them.

        Raises:
            NoSuchMessage: A named message is not dead.
        """
        keys = keys if keys is not None else await self._keys(message_ids, selection)
        refused: dict[Key, str] = {}
        done: list[Key] = []
        gap_us = 0 if not rate else int(1_000_000 / rate)
        async with self._database.transaction(read_only=True) as connection:
            first_us = await self._database.now_us(connection)
        for start in range(0, len(keys), CHUNK):
            chunk = keys[start : start + CHUNK]
            refused |= await self._refused(chunk)
            meant = [key for key in chunk if key not in refused]
            if not dry_run:
                async with self._database.transaction() as connection:
                    due = {"first_us": first_us + len(done) * gap_us, "gap_us": gap_us}
                    meant = await dead_letters.replay(connection, meant, by=self.by, at_us=self._clock.time_us(), **due)
            done += meant
        return Done(tuple(done), refused)

    async def discard(
        self, *message_ids: str, dry_run: bool = False, keys: Sequence[Key] | None = None, **selection: Unpack[Selection]
    ) -> Done:
        """Forget dead messages, or those of state "isolated"; without ids and selection: all dead ones.

        No copy of them runs later, but a command that a saga may ask for again: there the saga's question is a new one.

        Args:
            dry_run, keys: As for `replay`.

        Raises:
            NoSuchMessage: A named message is in no such state.
        """
        keys = keys if keys is not None else await self._keys(message_ids, selection)
        if dry_run:
            return Done(tuple(keys))
        done: list[Key] = []
        for start in range(0, len(keys), CHUNK):
            chunk = keys[start : start + CHUNK]
            of_sagas = {key for key, service in (await self._askers(chunk)).items() if service is not None}
            async with self._database.transaction() as connection:
                done += await dead_letters.discard(connection, [key for key in chunk if key not in of_sagas], is_final=True)
                done += await dead_letters.discard(connection, [key for key in chunk if key in of_sagas], is_final=False)
        return Done(tuple(done))

    async def skip(self, message_id: str, *, handler: str | None = None, dry_run: bool = False) -> Pending:
        """Let a held message of an ordered handler go without the one it waits for.

        Raises:
            NoSuchMessage: It is not held.
        """
        row = await self.show(message_id, handler=handler)
        if row.state == "held":
            if dry_run:
                return row
            async with self._database.transaction() as connection:
                if await watermark.skip(connection, row.handler, row.message_id):
                    return row
        raise NoSuchMessage(f"message {message_id} is not held, it is {row.state}")

    # --- which are meant, and which may run -------------------------------------------------------

    async def _keys(self, message_ids: Sequence[str], selection: Selection) -> Sequence[Key]:
        keys = await self.select(*message_ids, **selection)
        if missing := set(message_ids) - {message_id for _, message_id in keys}:
            state = selection.get("state", "dead")
            raise NoSuchMessage(f"{', '.join(sorted(missing))}: not among the {state} messages of {self._database.service}")
        return keys

    def _where(self, message_ids: Sequence[str], selection: Selection) -> Where:
        state = selection.get("state", "dead")
        states: tuple[PendingState, ...] = ("dead", "isolated", "held", "retry") if state == "any" else (state,)
        return Where(
            selection.get("handler"), selection.get("error"), selection.get("place"), selection.get("text"),
            self._us(selection.get("since")), tuple(message_ids), states,
        )  # fmt: skip

    def _us(self, since: datetime | Duration | None) -> int | None:
        if since is None:
            return None
        if isinstance(since, datetime):
            return int(since.timestamp() * 1_000_000)
        return self._clock.time_us() - int(seconds(since) * 1_000_000)

    async def _refused(self, keys: Sequence[Key]) -> dict[Key, str]:
        """Which of `keys` must not run again, and why."""
        askers = await self._askers(keys)
        refused = {key: PARKED for key in keys if key not in askers}
        for service in {service for service in askers.values() if service is not None}:
            asked = [key for key, asker in askers.items() if asker == service]
            refused |= await self._not_awaited(service, asked)
        return refused

    async def _askers(self, keys: Sequence[Key]) -> dict[Key, str | None]:
        """Of what are messages: the service whose saga waits for the answer, or None."""
        ids = tuple({message_id for _, message_id in keys})
        async with self._database.transaction(read_only=True) as connection:
            states: tuple[PendingState, ...] = ("dead", "isolated")
            rows = await dead_letters.find(connection, Where(message_ids=ids, states=states), limit=CHUNK * 10)
        return {(row.handler, row.message_id): self._asker(row.properties.reply_to) for row in rows if not row.is_parked}

    def _asker(self, reply_to: str | None) -> str | None:
        if reply_to is None or reply_to.startswith(self._names.waiting("")):
            return None
        before, _, behind = self._names.replies("?").partition("?")
        return reply_to.removeprefix(before).removesuffix(behind)

    async def _not_awaited(self, service: str, keys: Sequence[Key]) -> dict[Key, str]:
        if service == self._database.service:
            return await _ask_saga(self._database, keys)
        if service not in await services_of(self._settings, self._clock):
            why = f"a saga of {service} asked for it, whose database these settings do not name: replay it from where they do"
            return dict.fromkeys(keys, why)
        other = Database(self._settings.database(service), service=service, clock=self._clock, pool_size=1)
        try:
            return await _ask_saga(other, keys)
        finally:
            await other.close()


def operator() -> str:
    """The user who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"


async def _ask_saga(database: Database, keys: Sequence[Key]) -> dict[Key, str]:
    async with database.transaction(read_only=True) as connection:
        said = {key: await why_not_awaited(connection, key[1]) for key in keys}
    return {key: why for key, why in said.items() if why is not None}
