"""`eventplat demo`: the services of this folder, a few hundred orders through the gateway, and checks."""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path

import click

from eventplat.errors import NoSuchService
from eventplat.observability.logs import configure
from eventplat.service.load import discover
from eventplat.settings import load


@click.command("demo")
@click.option("--count", default=300, show_default=True, type=click.IntRange(1, 100_000), help="Generated orders.")
@click.option("--seed", default=1, show_default=True, help="Of the generated orders.")
@click.option("--orders", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A retail file (.csv.gz) instead.")
@click.option("--url", help="A running gateway, instead of one process here.")
@click.option("--token", envvar="EVENTPLAT_DEMO_TOKEN", help="Bearer token for that gateway.")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Keep the databases in this folder.")
def command(count: int, seed: int, orders: Path | None, url: str | None, token: str | None, data: Path | None) -> None:
    """Run the shop and check every unit of stock and money; exit 0 only if every check holds."""
    configure(load(log_level="warning"))
    services = discover()
    try:
        demo = importlib.import_module("services.demo.main")
    except ModuleNotFoundError as error:
        raise NoSuchService(f"this folder has no demo ({error})") from None
    options = demo.Options(count=count, seed=seed, orders=orders, url=url, token=token, data=data)
    sys.exit(0 if asyncio.run(demo.main(services, options)) else 1)
