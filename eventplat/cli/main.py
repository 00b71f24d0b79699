"""The command line: `eventplat COMMAND`, each command in a file of its own, loaded when it is called.

So `eventplat --help` is quick: it imports click and nothing of the platform.
"""

from __future__ import annotations

import importlib
import sys

import click

COMMANDS = {
    "run": "Run services on RabbitMQ and PostgreSQL (or embedded).",
    "dev": "Run everything in one process, gateway included, and stay up.",
    "demo": "Run the shop on a few hundred orders and check every unit of stock and money.",
    "gateway": "Run the gateway alone.",
    "topology": "Declare exchanges, queues and bindings.",
    "db": "Create and upgrade the databases.",
    "dlq": "Show, edit, replay and discard dead letters.",
    "handlers": "Show, pause and resume handlers.",
    "delayed": "Show and take back messages that wait for their time.",
    "explain": "Say what an error code means.",
    "health": "Ask a running process whether it is ready.",
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"eventplat.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="eventplat")
def cli() -> None:
    """An event platform for Python teams who run RabbitMQ and PostgreSQL behind a FastAPI gateway."""


def main() -> None:
    """The entry point: an error of the platform is its text and exit code 1, not a traceback."""
    try:
        cli(prog_name="eventplat")
    except Exception as error:
        from eventplat.errors import EventplatError  # noqa: PLC0415 - quick start

        if not isinstance(error, EventplatError):
            raise
        click.echo(f"eventplat: {error}", err=True)
        sys.exit(1)
