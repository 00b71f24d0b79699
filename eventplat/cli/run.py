"""`eventplat run services.stock`: one or more services, without a gateway."""

from __future__ import annotations

import click

from eventplat.process import run
from eventplat.service.load import load_service


@click.command("run")
@click.argument("modules", nargs=-1, required=True, metavar="MODULE...")
@click.option("--gateway", is_flag=True, help="Also serve HTTP in this process.")
def command(modules: tuple[str, ...], gateway: bool) -> None:
    """Run services in this process.

    MODULE is as services.stock or app.py.
    """
    run(*(load_service(module) for module in modules), gateway=gateway)
