"""`eventplat dlq`: dead letters, shown, grouped, edited, replayed and discarded; held messages skipped."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import click

from eventplat.cli.desks import Desk, brief, desk_of, newest_text, opened, properties_of, whole
from eventplat.cli.output import Since, age, as_json, dry_run, in_services, moment, print_json, print_table, yes
from eventplat.clock import SystemClock
from eventplat.errors import BadEdit, NoSuchMessage, NotReplayable
from eventplat.messages.message import Message
from eventplat.service.dead_letters import Done, Selection
from eventplat.service.edits import readable
from eventplat.service.endpoint import endpoints
from eventplat.service.load import known
from eventplat.transactions.dead_letters import Group, Key
from eventplat.transactions.pending import Pending

STATES = click.Choice(["dead", "isolated", "held", "retry", "any"])


@click.group("dlq")
def command() -> None:
    """Show, edit, replay and discard dead letters.

    A message that is out of attempts waits as a dead letter in its service's database, with every error it had.
    """


def _filters(function: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--since", type=Since(), help="Failed last within this age, as 30m, 2h or 7d, or after this moment."),
        click.option("--text", help="Stands in one of its errors."),
        click.option("--place", help="Where the error was raised, as `groups` tells it."),
        click.option("--error", help="Type of the newest error, as ValueError."),
        click.option("--handler", help="Its handler, as shop.add."),
        in_services,
    ):
        function = option(function)
    return function


@command.command("list")
@_filters
@click.option("--state", type=STATES, default="dead", show_default=True)
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@as_json
def list_(services: tuple[str, ...], limit: int, is_json: bool, **selection: Any) -> None:
    """List messages, the newest failures first."""
    asyncio.run(_list(services, limit, is_json, cast("Selection", selection)))


@command.command()
@_filters
@as_json
def groups(services: tuple[str, ...], is_json: bool, **selection: Any) -> None:
    """Group dead letters by handler, error and place, the largest group first."""
    asyncio.run(_groups(services, is_json, cast("Selection", selection)))


@command.command()
@click.argument("message_id", metavar="ID")
@click.option("--handler", help="Where the message stands in several.")
@in_services
@as_json
def show(message_id: str, handler: str | None, services: tuple[str, ...], is_json: bool) -> None:
    """Show one message: its properties, its body, and the error of every attempt."""
    asyncio.run(_show(message_id, handler, services, is_json))


@command.command()
@click.argument("message_id", metavar="ID")
@click.option("--body", help="The new body, as JSON.")
@click.option("--file", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A file with the new body.")
@click.option("--handler", help="Where the message stands in several.")
@click.option("--module", "modules", multiple=True, help="Where its message class is, as services.stock. Default: services/ or app.py.")
@in_services
@dry_run
@yes
@as_json
def edit(message_id: str, body: str | None, path: Path | None, handler: str | None, modules: tuple[str, ...], services: tuple[str, ...],
         is_dry: bool, is_sure: bool, is_json: bool) -> None:  # fmt: skip
    """Give a dead letter another body, under the same id.

    Without --body and --file an editor opens. The new body is checked against the message class; the former one stays in the
    history. It is not run before you replay it.
    """
    if body is not None and path is not None:
        raise click.UsageError("--body and --file exclude each other")
    new = path.read_text() if path is not None else body
    asyncio.run(_edit(message_id, new, handler, modules, services, is_dry=is_dry, is_sure=is_sure, is_json=is_json))


@command.command()
@click.argument("message_ids", nargs=-1, metavar="[ID...]")
@_filters
@click.option("--all", "is_all", is_flag=True, help="Every dead letter.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Messages a second. Default: all at once.")
@dry_run
@as_json
def replay(message_ids: tuple[str, ...], services: tuple[str, ...], is_all: bool, rate: float | None, is_dry: bool, is_json: bool,
           **selection: Any) -> None:  # fmt: skip
    """Let dead letters run again: those of ID..., or those that the options select.

    Any instance of their service runs them; with --rate they become due one after the other, and this command need not stay.
    """
    _check_meant(message_ids, selection, is_all)
    asyncio.run(_replay(message_ids, services, rate, cast("Selection", selection), is_dry=is_dry, is_json=is_json))


@command.command()
@click.argument("message_ids", nargs=-1, metavar="[ID...]")
@_filters
@click.option("--state", type=click.Choice(["dead", "isolated"]), default="dead", show_default=True)
@click.option("--all", "is_all", is_flag=True, help="Every one in this state.")
@dry_run
@yes
@as_json
def discard(message_ids: tuple[str, ...], services: tuple[str, ...], is_all: bool, is_dry: bool, is_sure: bool, is_json: bool,
            **selection: Any) -> None:  # fmt: skip
    """Forget messages for ever: those of ID..., or those that the options select."""
    _check_meant(message_ids, {name: value for name, value in selection.items() if name != "state"}, is_all)
    asyncio.run(_discard(message_ids, services, cast("Selection", selection), is_dry=is_dry, is_sure=is_sure, is_json=is_json))


@command.command()
@click.argument("message_id", metavar="ID")
@click.option("--handler", help="Where the message stands in several.")
@in_services
@dry_run
@as_json
def skip(message_id: str, handler: str | None, services: tuple[str, ...], is_dry: bool, is_json: bool) -> None:
    """Let a held message of an ordered handler go, without the one it waits for.

    `eventplat dlq list --state held` lists them.
    """
    asyncio.run(_skip(message_id, handler, services, is_dry=is_dry, is_json=is_json))


def _check_meant(message_ids: Sequence[str], selection: dict[str, Any], is_all: bool) -> None:
    if not (message_ids or is_all or any(value is not None for value in selection.values())):
        raise click.UsageError("name messages by ID, select some by --handler, --error, --place, --text or --since, or say --all")


# --- reading --------------------------------------------------------------------------------------


async def _list(services: Sequence[str], limit: int, is_json: bool, selection: Selection) -> None:
    async with opened(services, handler=selection.get("handler")) as desks:
        found = [(desk, row) for desk in desks for row in await desk.dead_letters.list(limit=limit, **selection)]
    found = sorted(found, key=lambda pair: pair[1].failed_us or pair[1].created_us, reverse=True)[:limit]
    if is_json:
        print_json([brief(desk, row) for desk, row in found])
        return
    now_us, state = SystemClock().time_us(), selection.get("state")
    rows = [
        (
            row.message_id, row.handler, row.state, row.attempts, age(row.failed_us or row.created_us, now_us),
            row.error, row.place, newest_text(row),
        )
        for _, row in found
    ]  # fmt: skip
    columns = ("id", "handler", "state", "attempts", "failed", "error", "place", "text")
    print_table(columns, rows, empty=f"no {'unsettled' if state == 'any' else state} messages")


async def _groups(services: Sequence[str], is_json: bool, selection: Selection) -> None:
    async with opened(services, handler=selection.get("handler")) as desks:
        found: list[Group] = [group for desk in desks for group in await desk.dead_letters.groups(**selection)]
    found.sort(key=lambda group: -group.count)
    if is_json:
        print_json([
            {"handler": group.handler, "error": group.error, "place": group.place, "count": group.count,
             "oldest": moment(group.oldest_us), "newest": moment(group.newest_us)}
            for group in found
        ])  # fmt: skip
        return
    now_us = SystemClock().time_us()
    rows = [
        (group.count, group.handler, group.error, group.place, age(group.oldest_us, now_us), age(group.newest_us, now_us))
        for group in found
    ]
    print_table(("count", "handler", "error", "place", "oldest", "newest"), rows, empty="no dead letters")


async def _show(message_id: str, handler: str | None, services: Sequence[str], is_json: bool) -> None:
    async with opened(services, handler=handler) as desks:
        desk, row = await desk_of(desks, message_id, handler)
    if is_json:
        print_json(whole(desk, row))
        return
    for name, value in brief(desk, row).items():
        if value is not None and name != "text":
            click.echo(f"{name:<12} {value}")
    click.echo(f"properties   {json.dumps(properties_of(row))}\n\n{readable(row.body)}")
    for entry in row.errors:
        if "action" in entry:
            click.echo(f"\n{moment(entry['at_us'])}  {entry['action']} by {entry['by']}")
            if "body" in entry:
                click.echo(f"before:\n{readable(entry['body'].encode())}")
        else:
            click.echo(f"\n{moment(entry['at_us'])}  attempt {entry['attempt']}: {entry['type']}: {entry['text']}")
            click.echo(entry.get("traceback") or "")


# --- changing -------------------------------------------------------------------------------------


async def _edit(message_id: str, body: str | None, handler: str | None, modules: Sequence[str], services: Sequence[str], *,
                is_dry: bool, is_sure: bool, is_json: bool) -> None:  # fmt: skip
    async with opened(services, handler=handler) as desks:
        desk, row = await desk_of(desks, message_id, handler)
        against = _class_of(row, modules)
        if body is None and (body := click.edit(readable(row.body), extension=".json")) is None:
            raise click.ClickException("the editor was left without saving: nothing is changed")
        letters = desk.dead_letters
        change = await letters.edit(message_id, body, against=against, handler=row.handler, dry_run=True)
        if not is_json:
            click.echo(change.diff or "nothing is changed")
        is_done = bool(change.diff) and not is_dry and (is_sure or is_json or click.confirm("change it?", err=True))
        if is_done:
            await letters.edit(message_id, body, against=against, handler=row.handler)
    if is_json:
        print_json({"service": desk.service, "handler": row.handler, "message_id": message_id, "diff": change.diff, "edited": is_done})
    elif is_done:
        click.echo(f"edited; run it by `eventplat dlq replay {message_id}`")


def _class_of(row: Pending, modules: Sequence[str]) -> type[Message]:
    for service in known(modules):
        for endpoint in endpoints(service):
            if endpoint.identity == row.handler:
                return endpoint.handler.message
    name = row.handler.partition(".")[0]
    raise BadEdit(f"the message class of {row.handler} is not here to check the new body against. "
                  f"Run this where the code of {name} is, or name it, as --module services.{name}")  # fmt: skip


async def _replay(message_ids: Sequence[str], services: Sequence[str], rate: float | None, selection: Selection, *,
                  is_dry: bool, is_json: bool) -> None:  # fmt: skip
    async with opened(services, handler=selection.get("handler")) as desks:
        meant = await _meant(desks, message_ids, selection)
        done = {
            desk.service: await desk.dead_letters.replay(keys=keys, rate=rate, dry_run=is_dry) for desk, keys in meant if keys
        }  # fmt: skip
    _report(done, "would be replayed" if is_dry else "replayed", is_json, is_dry=is_dry)
    most = max((each.count for each in done.values()), default=0)
    if rate and most and not is_json:
        click.echo(f"at {rate:g} a second, within {most / rate:.0f} s")
    if any(each.refused for each in done.values()):
        sys.exit(1)


async def _discard(message_ids: Sequence[str], services: Sequence[str], selection: Selection, *,
                   is_dry: bool, is_sure: bool, is_json: bool) -> None:  # fmt: skip
    async with opened(services, handler=selection.get("handler")) as desks:
        meant = await _meant(desks, message_ids, selection)
        count = sum(len(keys) for _, keys in meant)
        is_sure = is_sure or is_dry or not count
        if not is_sure:
            click.confirm(f"forget {count} messages for ever?", abort=True, err=True)
        done = {desk.service: await desk.dead_letters.discard(keys=keys, dry_run=is_dry) for desk, keys in meant if keys}
    _report(done, "would be discarded" if is_dry else "discarded", is_json, is_dry=is_dry)


async def _meant(desks: Sequence[Desk], message_ids: Sequence[str], selection: Selection) -> list[tuple[Desk, Sequence[Key]]]:
    """The messages that are there at this moment: what fails from now on is not acted on."""
    meant = [(desk, await desk.dead_letters.select(*message_ids, **selection)) for desk in desks]
    if missing := set(message_ids) - {message_id for _, keys in meant for _, message_id in keys}:
        raise NoSuchMessage(f"{', '.join(sorted(missing))}: not among the {selection.get('state', 'dead')} messages of "
                            f"{', '.join(desk.service for desk in desks)}")  # fmt: skip
    return meant


def _report(done: dict[str, Done], what: str, is_json: bool, *, is_dry: bool) -> None:
    refused = {key: why for each in done.values() for key, why in each.refused.items()}
    count = sum(each.count for each in done.values())
    if is_json:
        print_json({
            "dry_run": is_dry, "count": count,
            "messages": [{"handler": handler, "message_id": id_} for each in done.values() for handler, id_ in each.done],
            "refused": [{"handler": handler, "message_id": id_, "why": why} for (handler, id_), why in refused.items()],
        })  # fmt: skip
        return
    click.echo(f"{count} messages {what}")
    for (handler, id_), why in refused.items():
        click.echo(f"eventplat: {NotReplayable(f'{id_} of {handler} is not replayed: {why}')}", err=True)


async def _skip(message_id: str, handler: str | None, services: Sequence[str], *, is_dry: bool, is_json: bool) -> None:
    async with opened(services, handler=handler) as desks:
        desk, _ = await desk_of(desks, message_id, handler)
        row = await desk.dead_letters.skip(message_id, handler=handler, dry_run=is_dry)
    if is_json:
        print_json({"service": desk.service, "handler": row.handler, "message_id": message_id, "skipped": not is_dry})
    else:
        click.echo(f"{row.handler} {'would go' if is_dry else 'goes'} on with {message_id}")
