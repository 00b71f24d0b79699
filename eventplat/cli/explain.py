"""`eventplat explain EP101`: what an error code means."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator

import click

from eventplat.errors import EventplatError

ELSEWHERE = ("eventplat.failpoints", "eventplat.gateway.http", "eventplat.testing.harness")  # errors that stand with their rooms


@click.command("explain")
@click.argument("code")
def command(code: str) -> None:
    """Say what an error CODE means and what to do."""
    kind = _found(code.upper())
    if kind is None:
        raise click.ClickException(f"no error has the code {code!r}; codes look like EP101")
    click.echo(f"{kind.code}  {kind.__name__}\n")
    click.echo(inspect.getdoc(kind))
    if kind.next_move:
        click.echo(f"\n{kind.next_move}.")


def _found(code: str) -> type[EventplatError] | None:
    for module in ("eventplat.errors", *ELSEWHERE):
        importlib.import_module(module)
        for kind in _tree(EventplatError):
            if kind.code == code:
                return kind
    return None


def _tree(kind: type[EventplatError]) -> Iterator[type[EventplatError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)
