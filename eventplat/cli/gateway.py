"""`eventplat gateway`: HTTP in, messages out, answers back."""

from __future__ import annotations

import click

from eventplat.process import run


@click.command("gateway")
def command() -> None:
    """Run the gateway alone; it finds services by their heartbeats."""
    run(gateway=True)
