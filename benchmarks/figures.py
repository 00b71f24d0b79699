"""Figures: from what the programs reported to medians, ratios and a table. Pure.

A ratio is formed round by round, of two rows that ran one after the other, and its median is shown with the least and
the most: on a shared machine a ratio of medians hides what the rounds were like.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Reports = Mapping[str, Sequence[Mapping[str, Any]]]     # by row, one per round
Figure = Literal["rate", "p50_ms"]


@dataclass(frozen=True)
class Spread:
    """Several rounds of one figure."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of 1 or more values."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Ratio:
    """A row beside a peer."""

    row: str
    peer: str
    spread: Spread
    least: float        # what it has to reach

    @property
    def is_reached(self) -> bool:
        """Whether the median reaches the bar."""
        return self.spread.median >= self.least


def spread_of(reports: Reports, row: str, figure: str) -> Spread | None:
    """A figure of a row over the rounds; None where its program does not report it."""
    values = [float(report[figure]) for report in reports.get(row, ()) if figure in report]
    return Spread.of(values) if values else None


def ratio(reports: Reports, row: str, peer: str, *, least: float, figure: Figure = "rate") -> Ratio | None:
    """How many times as good as `peer`, round by round; None where either was not measured.

    A higher rate is better, and a lower latency.
    """
    pairs = list(zip(reports.get(row, ()), reports.get(peer, ()), strict=False))
    if not pairs:
        return None
    ratios = [a[figure] / b[figure] if figure == "rate" else b[figure] / a[figure] for a, b in pairs]
    return Ratio(row, peer, Spread.of(ratios), least)


def number(value: float) -> str:
    """`value` with three digits that mean something: 12,300, 87.1, 2.61."""
    if value >= 1_000:
        return f"{round(value, -max(len(str(int(value))) - 3, 0)):,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def in_order(count: int, round_number: int) -> list[int]:
    """The order in which rows run: forward and backward by turns."""
    forward = list(range(count))
    return forward if round_number % 2 == 0 else forward[::-1]
