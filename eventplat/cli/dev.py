"""`eventplat dev [app.py]`: services and gateway in one process."""

from __future__ import annotations

import click

from eventplat.process import run
from eventplat.service.load import discover, load_service
from eventplat.settings import load


@click.command("dev")
@click.argument("modules", nargs=-1, metavar="[MODULE...]")
@click.option("--port", type=click.IntRange(0, 65_535), help="Of the gateway; default 8000.")
def command(modules: tuple[str, ...], port: int | None) -> None:
    """Run services and the gateway in this process, and stay up.

    MODULE is as services.stock or app.py; without one, every service in services/.
    """
    settings = load(**({} if port is None else {"gateway_port": port}))
    services = [load_service(module) for module in modules] if modules else discover()
    click.echo(f"eventplat dev: {', '.join(service.name for service in services)}")
    click.echo(f"  API    http://{settings.gateway_host}:{settings.gateway_port}/docs")
    click.echo(f"  data   {settings.data_dir}")
    run(*services, settings=settings)
