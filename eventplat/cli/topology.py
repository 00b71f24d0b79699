"""`eventplat topology apply`: what a release needs on the broker, before its processes start."""

from __future__ import annotations

import asyncio

import click

from eventplat.process import apply_topology
from eventplat.service.load import discover, load_service
from eventplat.settings import load


@click.group("topology")
def command() -> None:
    """Declare exchanges, queues and bindings."""


@command.command("apply")
@click.argument("modules", nargs=-1, metavar="[MODULE...]")
@click.option("--dry-run", is_flag=True, help="Print what would be declared.")
def apply(modules: tuple[str, ...], dry_run: bool) -> None:
    """Declare what services need; what is there stays.

    MODULE is as services.stock or app.py; without one, every service in services/.
    """
    services = [load_service(module) for module in modules] if modules else discover()
    wanted = asyncio.run(apply_topology(services, load(), dry_run=dry_run))
    for exchange in wanted.exchanges:
        click.echo(f"exchange  {exchange.name}  {exchange.type}")
    for queue in wanted.queues:
        click.echo(f"queue     {queue.name}  {queue.type}")
        for binding in queue.bindings:
            click.echo(f"            {binding.exchange}  {binding.routing_key}")
    click.echo(f"{len(wanted.exchanges)} exchanges and {len(wanted.queues)} queues {'would be' if dry_run else 'are'} there")
