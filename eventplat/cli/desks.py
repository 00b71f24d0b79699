"""Desks: the databases of the services an operator looks at, opened for one command.

The command needs the settings of the services, not their code, and no broker: it works while they are down.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from eventplat.cli.output import first_line, moment
from eventplat.clock import SystemClock
from eventplat.errors import NoSuchMessage, SettingsError
from eventplat.service.dead_letters import DeadLetters
from eventplat.service.handler_control import HandlerControl
from eventplat.settings import Settings, load
from eventplat.storage.database import Database
from eventplat.storage.migrate import check
from eventplat.storage.services import services_of
from eventplat.transactions.attempts import newest_error
from eventplat.transactions.pending import Pending


@dataclass(frozen=True)
class Desk:
    """One service, as an operator sees it."""

    service: str
    database: Database
    dead_letters: DeadLetters
    handlers: HandlerControl


@asynccontextmanager
async def opened(services: Sequence[str], *, handler: str | None = None, settings: Settings | None = None) -> AsyncIterator[list[Desk]]:
    """The desks of `services`, of `handler`'s service, or of all that have a database where the settings point.

    Raises:
        SettingsError: There is none, or not of a service that is named.
        SchemaOutdated: Its tables are older than this release.
    """
    settings = settings or load()
    there = await services_of(settings, SystemClock())
    wanted = list(services) or ([handler.partition(".")[0]] if handler else there)
    if missing := [name for name in wanted if name not in there]:
        raise SettingsError(f"no database of {', '.join(missing)} where the settings point, only of {', '.join(there) or 'nobody'}")
    if not wanted:
        raise SettingsError(f"no service has a database where the settings point ({settings.data_dir} holds none)")
    async with AsyncExitStack() as stack:
        yield [await _open(stack, name, settings) for name in wanted]


async def desk_of(desks: Sequence[Desk], message_id: str, handler: str | None) -> tuple[Desk, Pending]:
    """The message, and the desk it lies on.

    Raises:
        NoSuchMessage: There is none, or it stands in several handlers and none is named.
    """
    found = [(desk, row) for desk in desks for row in await desk.dead_letters.list(message_id, handler=handler, state="any")]
    if len(found) != 1:
        handlers = ", ".join(sorted(row.handler for _, row in found))
        where = f"stands in {handlers}" if found else f"does not stand in {', '.join(desk.service for desk in desks)}"
        raise NoSuchMessage(f"message {message_id} {where}")
    return found[0]


async def _open(stack: AsyncExitStack, service: str, settings: Settings) -> Desk:
    clock = SystemClock()
    database = Database(settings.database(service), service=service, clock=clock, pool_size=1)
    stack.push_async_callback(database.close)
    await check(database)
    return Desk(service, database, DeadLetters(database, settings, clock), HandlerControl(database))


def newest_text(row: Pending) -> str:
    """The first line of the newest error."""
    newest = newest_error(row.errors)
    return "" if newest is None else first_line(newest["text"])


def brief(desk: Desk, row: Pending) -> dict[str, Any]:
    """A message as a line of a list tells it."""
    return {
        "message_id": row.message_id, "service": desk.service, "handler": row.handler, "state": row.state, "type": row.type,
        "key": row.key, "attempts": row.attempts, "error": row.error, "place": row.place, "text": newest_text(row),
        "created": moment(row.created_us), "failed": moment(row.failed_us), "due": moment(row.due_us),
    }  # fmt: skip


def whole(desk: Desk, row: Pending) -> dict[str, Any]:
    """Everything that is kept of a message."""
    try:
        body = json.loads(row.body)
    except ValueError:
        body = row.body.decode(errors="backslashreplace")
    history = [{**entry, "at": moment(entry["at_us"])} for entry in row.errors]
    return {**brief(desk, row), "properties": properties_of(row), "body": body, "history": history}


def properties_of(row: Pending) -> dict[str, Any]:
    """What came with the body; without the grant, which is a credential."""
    properties = row.properties
    named = {name: getattr(properties, name) for name in ("message_id", "correlation_id", "reply_to", "app_id", "user_id", "content_type")}
    return {name: value for name, value in {**named, **properties.headers}.items() if value is not None and name != "grant"}
