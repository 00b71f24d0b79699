"""`eventplat delayed`: messages that were sent with `after=` and wait for their time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import click

from eventplat.cli.desks import opened
from eventplat.cli.output import as_json, dry_run, in_services, moment, print_json, print_table
from eventplat.errors import NoSuchMessage
from eventplat.transactions import outbox


@click.group("delayed")
def command() -> None:
    """Show and take back messages that wait for their time."""


@command.command("list")
@in_services
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@as_json
def list_(services: tuple[str, ...], limit: int, is_json: bool) -> None:
    """List messages that wait for their time, the next first."""
    asyncio.run(_list(services, limit, is_json))


@command.command()
@click.argument("message_id", metavar="ID")
@in_services
@dry_run
@as_json
def cancel(message_id: str, services: tuple[str, ...], is_dry: bool, is_json: bool) -> None:
    """Take a message back before it is sent."""
    asyncio.run(_cancel(message_id, services, is_dry=is_dry, is_json=is_json))


async def _list(services: Sequence[str], limit: int, is_json: bool) -> None:
    waiting = []
    async with opened(services) as desks:
        for desk in desks:
            async with desk.database.transaction(read_only=True) as connection:
                for id_, properties, due_us in await outbox.delayed(connection, limit=limit):
                    key = properties.headers.get("key")
                    waiting.append({"message_id": id_, "service": desk.service, "type": properties.type, "key": key, "due": moment(due_us)})
    waiting = sorted(waiting, key=lambda message: message["due"] or "")[:limit]
    if is_json:
        print_json(waiting)
    else:
        columns = ("message_id", "service", "type", "key", "due")
        print_table(columns, [[message[name] for name in columns] for message in waiting], empty="no message waits for its time")


async def _cancel(message_id: str, services: Sequence[str], *, is_dry: bool, is_json: bool) -> None:
    service = None
    async with opened(services) as desks:
        for desk in desks:
            async with desk.database.transaction(read_only=is_dry) as connection:
                if await (outbox.waits(connection, message_id) if is_dry else outbox.cancel(connection, message_id)):
                    service = desk.service
                    break
    if service is None:
        raise NoSuchMessage(f"message {message_id} does not wait for its time: it has left, was taken back, or is another's")
    if is_json:
        print_json({"message_id": message_id, "service": service, "cancelled": not is_dry})
    else:
        click.echo(f"{message_id} of {service} {'would be' if is_dry else 'is'} taken back")
