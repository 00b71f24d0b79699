"""`eventplat health URL` and `eventplat health SERVICE`: for health checks in compose, where no curl is installed."""

from __future__ import annotations

import re
import sys
import urllib.request
from http.client import HTTPException

import click

from eventplat.observability.pulse import age_s, pulse_path
from eventplat.settings import load

SERVICE = re.compile(r"[a-z][a-z0-9-]*")


@click.command("health")
@click.argument("url", default="http://127.0.0.1:8000/health/ready", metavar="[URL|SERVICE]")
def command(url: str) -> None:
    """Exit 0 if URL answers 200, or if the SERVICE that runs beside this data directory is well."""
    if SERVICE.fullmatch(url):
        _feel(url)
        return
    if not url.startswith(("http://", "https://")):
        raise click.ClickException(f"{url!r} is no http URL")
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:  # noqa: S310 - checked above
            click.echo(answer.read().decode(errors="replace"))
    except (OSError, HTTPException, ValueError) as error:  # a URLError is an OSError; no HTTP, a broken answer, no such URL
        click.echo(f"not ready: {error}", err=True)
        sys.exit(1)


def _feel(service: str) -> None:
    """Exit 1 unless the service has consumers on the broker, a living row in its database, and a loop that says so."""
    settings = load()
    age = age_s(pulse_path(settings.data_dir, service))
    if age is None or age > settings.process_term_s:
        said = "it has not been well yet" if age is None else f"it was well {age:.0f} s ago"
        click.echo(f"{service} is not well: {said}", err=True)
        sys.exit(1)
    click.echo(f"{service} is well")
