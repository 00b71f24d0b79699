"""`eventplat health URL`: for health checks in compose, where no curl is installed."""

from __future__ import annotations

import sys
import urllib.request
from http.client import HTTPException

import click


@click.command("health")
@click.argument("url", default="http://127.0.0.1:8000/health/ready")
def command(url: str) -> None:
    """Exit 0 if URL answers 200."""
    if not url.startswith(("http://", "https://")):
        raise click.ClickException(f"{url!r} is no http URL")
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:  # noqa: S310 - checked above
            click.echo(answer.read().decode(errors="replace"))
    except (OSError, HTTPException, ValueError) as error:  # a URLError is an OSError; no HTTP, a broken answer, no such URL
        click.echo(f"not ready: {error}", err=True)
        sys.exit(1)
