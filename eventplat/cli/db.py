"""`eventplat db upgrade`: schemas, roles and tables, before a release's processes start."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from eventplat.clock import SystemClock
from eventplat.service.load import discover, load_service
from eventplat.service.service import Service
from eventplat.settings import Settings, load
from eventplat.storage.database import Database
from eventplat.storage.migrate import upgrade, upgrade_service


@click.group("db")
def command() -> None:
    """Create and upgrade the databases."""


@command.command("upgrade")
@click.argument("modules", nargs=-1, metavar="[MODULE...]")
@click.option("--migrations", type=click.Path(path_type=Path, file_okay=False),
              help="Where the services' own migrations stand; default: migrations/.")  # fmt: skip
def apply(modules: tuple[str, ...], migrations: Path | None) -> None:
    """Bring databases to this release; idempotent.

    MODULE is as services.stock or app.py; without one, every service in services/.
    """
    services = [load_service(module) for module in modules] if modules else discover()
    settings = load()
    asyncio.run(_upgrade(services, settings, migrations or settings.migrations_dir or Path("migrations")))


async def _upgrade(services: Sequence[Service[Any]], settings: Settings, migrations: Path) -> None:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    for service in services:
        if not service.has_database:
            continue
        database = Database(settings.database(service.name), service=service.name, clock=SystemClock(), pool_size=2)
        try:
            await upgrade(database)
            if service.tables is not None:
                await upgrade_service(database, migrations, service.name, service.tables)
            click.echo(f"{service.name}: up to date  {database.url}")
        finally:
            await database.close()
