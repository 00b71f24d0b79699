"""Report: a suite's table on the terminal, its figures and its plot on disk."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Ratio, Spread, number, ratio, spread_of
from benchmarks.plot import Bar as Drawn
from benchmarks.plot import bars
from benchmarks.suites import Suite

Measured = Mapping[str, Sequence[Mapping[str, Any]]]


def ratios(suite: Suite, measured: Measured) -> list[Ratio]:
    """The suite's ratios, as far as measured."""
    found = (ratio(measured, bar.row, bar.peer, least=bar.least, figure=suite.figure) for bar in suite.bars)
    return [each for each in found if each is not None]


def show(console: Console, suite: Suite, measured: Measured) -> None:
    """Print the table and the ratios."""
    console.print(f"\n[bold]{suite.title}[/bold]")
    table = Table(box=None)
    for heading in ("", "per second" if suite.figure == "rate" else "p50 ms", "least..most", "p99 ms", "client CPU us"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in measured:
        cells = [spread_of(measured, row, name) for name in (suite.figure, "p99_ms", "cpu_us")]
        main = cells[0]
        between = "" if main is None else f"{number(main.least)}..{number(main.most)}"
        table.add_row(row, _median(main), between, _median(cells[1]), _median(cells[2]))
    console.print(table)
    for each in ratios(suite, measured):
        s, mark = each.spread, "reached" if each.is_reached else "[red]missed[/red]"
        console.print(f"  {each.row} / {each.peer}: {s.median:.2f} ({s.least:.2f}..{s.most:.2f}), bar {each.least:g}: {mark}")


def save(folder: Path, suite: Suite, measured: Measured) -> None:
    """Write `<suite>.json` and `<suite>.svg`."""
    folder.mkdir(parents=True, exist_ok=True)
    found = [
        {"row": r.row, "peer": r.peer, "median": r.spread.median, "least": r.spread.least, "most": r.spread.most, "bar": r.least}
        for r in ratios(suite, measured)
    ]
    machine = {"processors": psutil.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
    text = {"suite": suite.name, "title": suite.title, "machine": machine, "rows": measured, "ratios": found}
    (folder / f"{suite.name}.json").write_text(json.dumps(text, indent=1) + "\n")
    spreads = {row: spread_of(measured, row, suite.figure) for row in measured}
    ours = {row.name for row in suite.rows if row.is_ours}
    drawn = [Drawn(row, s.median, s.least, s.most, is_ours=row in ours) for row, s in spreads.items() if s is not None]
    unit = "per second" if suite.figure == "rate" else "p50, milliseconds"
    (folder / f"{suite.name}.svg").write_text(bars(suite.title, unit, drawn))


def _median(spread: Spread | None) -> str:
    return "" if spread is None else number(spread.median)
