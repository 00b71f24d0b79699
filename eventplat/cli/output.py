"""Output: what the commands have in common on the terminal: tables for people, JSON for programs, ages and moments.

Into a pipe a table is as wide as it needs to be and has no frame: no value is cut off.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import click

WIDE = 400                     # characters of a line into a pipe
LAST_S = 253_402_300_799.0     # the end of the year 9999

as_json = click.option("--json", "is_json", is_flag=True, help="JSON for programs.")
dry_run = click.option("--dry-run", "is_dry", is_flag=True, help="Say what would be done; change nothing.")
yes = click.option("--yes", "-y", "is_sure", is_flag=True, help="Do not ask.")
in_services = click.option("--service", "-s", "services", multiple=True, help="Of this service; may be repeated. Default: all.")


class Since(click.ParamType[timedelta | datetime]):
    """`90s`, `30m`, `2h`, `7d`, or a moment as 2026-11-25T10:00 (UTC unless it says otherwise)."""

    name = "since"
    _UNITS: ClassVar = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta | datetime:
        if isinstance(value, timedelta | datetime):
            return value
        if found := re.fullmatch(r"(\d+)([smhd])", value):
            return timedelta(**{self._UNITS[found[2]]: int(found[1])})
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is neither an age, as 90s, 30m, 2h or 7d, nor a moment, as 2026-11-25T10:00", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def print_json(value: Any) -> None:
    """`value` as JSON, a field a line."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """`rows` under `columns`, numbers to the right; `empty` where there are none."""
    if not rows:
        click.echo(empty)
        return
    from rich import box  # noqa: PLC0415 - quick start
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    is_terminal = sys.stdout.isatty()
    table = Table(box=box.SIMPLE_HEAD if is_terminal else None, pad_edge=False)
    for position, column in enumerate(columns):
        is_number = all(isinstance(row[position], int) for row in rows)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold", no_wrap=not is_terminal)
    for row in rows:
        table.add_row(*(Text("" if value is None else str(value)) for value in row))
    Console(file=sys.stdout, width=None if is_terminal else WIDE, soft_wrap=False).print(table)


def moment(us: int | None) -> str | None:
    """Microseconds since 1970 as a moment, UTC; what is beyond the calendar, as of a replay at a tiny rate, as its end."""
    if us is None:
        return None
    return datetime.fromtimestamp(min(us / 1_000_000, LAST_S), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def age(us: int | None, now_us: int) -> str | None:
    """How long ago, in the unit that fits: 40 s, 3 min, 2 h, 5 d."""
    if us is None:
        return None
    for unit, size, most in (("s", 1, 100), ("min", 60, 100), ("h", 3_600, 48)):
        if (count := max(now_us - us, 0) // 1_000_000 // size) < most:
            return f"{count} {unit}"
    return f"{max(now_us - us, 0) // 86_400_000_000} d"


def first_line(text: str, chars_max: int = 100) -> str:
    """The beginning of `text`, for a table."""
    line = text.partition("\n")[0]
    return line if len(line) <= chars_max else f"{line[: chars_max - 1]}…"
