"""`eventplat explain EP101`: what an error code means."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from eventplat.errors import EventplatError


@click.command("explain")
@click.argument("code")
def command(code: str) -> None:
    """Say what an error CODE means and what to do."""
    for kind in _tree(EventplatError):
        if kind.code == code.upper():
            click.echo(f"{kind.code}  {kind.__name__}\n")
            click.echo(inspect.getdoc(kind))
            if kind.next_move:
                click.echo(f"\n{kind.next_move}.")
            return
    raise click.ClickException(f"no error has the code {code!r}; codes look like EP101")


def _tree(kind: type[EventplatError]) -> Iterator[type[EventplatError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)
