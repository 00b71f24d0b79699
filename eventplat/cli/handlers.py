"""`eventplat handlers`: which handlers there are, how they stand, and pausing and resuming them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import click

from eventplat.broker.connect import open_transport
from eventplat.broker.topology import Names
from eventplat.cli.desks import Desk, opened
from eventplat.cli.output import age, as_json, dry_run, in_services, moment, print_json, print_table
from eventplat.clock import SystemClock
from eventplat.errors import BrokerError, NoSuchHandler
from eventplat.service.endpoint import Endpoint, endpoints
from eventplat.service.handler_control import HandlerState
from eventplat.service.load import known
from eventplat.settings import Settings, load

Depths = Mapping[str, int | None]


@click.group("handlers")
def command() -> None:
    """Show, pause and resume handlers."""


@command.command("list")
@click.argument("modules", nargs=-1, metavar="[MODULE...]")
@in_services
@as_json
def list_(modules: tuple[str, ...], services: tuple[str, ...], is_json: bool) -> None:
    """List handlers: paused or running, what waits in their queue, is due, held, dead, and since when.

    MODULE is as services.stock or app.py; without one, services/ or app.py. Where no code is, only the handlers are listed
    that are paused or have unsettled messages.
    """
    asyncio.run(_list(modules, services, is_json))


@command.command()
@click.argument("handlers", nargs=-1, required=True, metavar="HANDLER...")
@click.option("--reason", default="", help="For whoever sees it paused.")
@click.option("--module", "modules", multiple=True, help="Where its service is, as services.stock or app.py. Default: services/ or app.py.")
@dry_run
@as_json
def pause(handlers: tuple[str, ...], reason: str, modules: tuple[str, ...], is_dry: bool, is_json: bool) -> None:
    """Let handlers wait, as shop.add: no instance takes or retries anything for them until they are resumed.

    It reaches every instance within a few seconds and outlives restarts. What runs already runs to its end.
    """
    asyncio.run(_change(handlers, modules, reason, is_pause=True, is_dry=is_dry, is_json=is_json))


@command.command()
@click.argument("handlers", nargs=-1, required=True, metavar="HANDLER...")
@click.option("--module", "modules", multiple=True, help="Where its service is, as services.stock or app.py. Default: services/ or app.py.")
@dry_run
@as_json
def resume(handlers: tuple[str, ...], modules: tuple[str, ...], is_dry: bool, is_json: bool) -> None:
    """Let paused handlers go on."""
    asyncio.run(_change(handlers, modules, "", is_pause=False, is_dry=is_dry, is_json=is_json))


async def _list(modules: Sequence[str], services: Sequence[str], is_json: bool) -> None:
    settings = load()
    of_code = {endpoint.identity: endpoint for service in known(modules) for endpoint in endpoints(service)}
    async with opened(services, settings=settings) as desks:
        states = {name: state for desk in desks for name, state in (await desk.handlers.list()).items()}
        seen = {desk.service for desk in desks}
    names = sorted(states.keys() | {name for name in of_code if name.partition(".")[0] in seen})
    depths = await _depths(settings, names)
    told = [_told(states.get(name, HandlerState(name)), of_code.get(name), depths.get(name)) for name in names]
    if is_json:
        print_json(told)
        return
    now_us = SystemClock().time_us()
    rows = [
        (
            handler["handler"], handler["message"], f"paused by {handler['paused']['by']}" if handler["paused"] else "running",
            "?" if handler["queued"] is None else handler["queued"], handler["due"], handler["retry"], handler["held"],
            handler["isolated"], handler["dead"], age(handler["oldest_us"], now_us), (handler["paused"] or {}).get("reason"),
        )
        for handler in told
    ]  # fmt: skip
    columns = ("handler", "message", "state", "queued", "due", "retry", "held", "isolated", "dead", "oldest", "reason")
    print_table(columns, rows, empty="no handlers")


def _told(state: HandlerState, endpoint: Endpoint | None, depth: int | None) -> dict[str, Any]:
    pause, message = state.pause, None if endpoint is None else endpoint.handler.message.__name__
    return {
        "handler": state.name, "message": message, "queued": depth, "due": state.due, "retry": state.count("retry"),
        "held": state.count("held"), "isolated": state.count("isolated"), "dead": state.count("dead"),
        "oldest_us": state.oldest_us, "oldest": moment(state.oldest_us),
        "paused": None if pause is None else {"since": moment(pause.since_us), "by": pause.by, "reason": pause.reason},
    }  # fmt: skip


async def _depths(settings: Settings, handlers: Sequence[str]) -> Depths:
    """Messages ready in each handler's queue; nothing where the broker cannot be asked, None of a queue that is not there."""
    if settings.is_embedded and not (settings.data_dir / "broker.db").exists():
        return {}
    transport = open_transport(settings.broker(), name="operator", clock=SystemClock())
    try:
        await transport.open()
    except BrokerError as error:  # the embedded one is its process's own
        click.echo(f"the queues are not shown: {error}", err=True)
        return {}
    try:
        return {handler: await transport.depth(Names(settings.prefix).queue(handler)) for handler in handlers}
    finally:
        await transport.close()


async def _change(handlers: Sequence[str], modules: Sequence[str], reason: str, *, is_pause: bool, is_dry: bool, is_json: bool) -> None:
    settings = load()
    services = list(dict.fromkeys(handler.partition(".")[0] for handler in handlers))
    async with opened(services, settings=settings) as desks:
        by_service = {desk.service: desk for desk in desks}
        await _check(settings, handlers, modules)
        told = []
        for handler in handlers:
            is_changed = await _changed(by_service[handler.partition(".")[0]], handler, reason, is_pause=is_pause, is_dry=is_dry)
            told.append({"handler": handler, "state": "paused" if is_pause else "running", "changed": is_changed, "dry_run": is_dry})
    if is_json:
        print_json(told)
        return
    for each in told:
        done = ("would be paused" if is_dry else "paused") if is_pause else ("would be resumed" if is_dry else "resumed")
        click.echo(f"{each['handler']} {done if each['changed'] else 'is paused already' if is_pause else 'was not paused'}")


async def _changed(desk: Desk, handler: str, reason: str, *, is_pause: bool, is_dry: bool) -> bool:
    if is_dry:
        state = (await desk.handlers.list()).get(handler)
        return is_pause != (state is not None and state.pause is not None)
    return await (desk.handlers.pause(handler, reason=reason) if is_pause else desk.handlers.resume(handler))


async def _check(settings: Settings, handlers: Sequence[str], modules: Sequence[str]) -> None:
    """Refuse a name that is no handler's, by the code of its service, else by the queues of the broker.

    Raises:
        NoSuchHandler: With those there are.
    """
    of_code = {service.name: {endpoint.identity for endpoint in endpoints(service)} for service in known(modules)}
    for handler in handlers:
        there = of_code.get(handler.partition(".")[0])
        if there is not None and handler not in there:
            raise NoSuchHandler(f"{handler!r} is none of {', '.join(sorted(there))}")
    unknown = [handler for handler in handlers if handler.partition(".")[0] not in of_code]
    depths = await _depths(settings, unknown) if unknown else {}
    if missing := [handler for handler in unknown if handler in depths and depths[handler] is None]:
        raise NoSuchHandler(f"there is no queue of {', '.join(missing)}")
