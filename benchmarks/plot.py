"""Plot: a bar for each row, the least and the most as whiskers, as SVG. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.figures import number

WIDTH, LABELS, VALUES, LINE, TOP = 900, 300, 90, 26, 48
OURS, PEERS, INK = "#2a6f97", "#b8c4cc", "#222222"


@dataclass(frozen=True)
class Bar:
    """One row: its median, and how far its rounds were apart."""

    name: str
    median: float
    least: float
    most: float
    is_ours: bool


def bars(title: str, unit: str, rows: Sequence[Bar]) -> str:
    """An SVG document of `rows`, from top to bottom as given."""
    room = WIDTH - LABELS - VALUES
    scale = room / max([row.most for row in rows], default=1.0)
    height = TOP + LINE * len(rows) + 12
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="12" y="20" font-size="15" font-weight="bold">{escape(title)}</text>',
        f'<text x="12" y="37" font-size="11">{escape(unit)}; a bar is the median, its line the least and the most</text>',
    ]
    for place, row in enumerate(rows):
        drawn += _row(row, TOP + LINE * place, scale)
    return "\n".join([*drawn, "</svg>", ""])


def _row(row: Bar, top: float, scale: float) -> list[str]:
    middle, end = top + LINE / 2, LABELS + row.most * scale
    width, colour = row.median * scale, OURS if row.is_ours else PEERS
    return [
        f'<text x="{LABELS - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(row.name)}</text>',
        f'<rect x="{LABELS}" y="{top + 4:.1f}" width="{width:.1f}" height="{LINE - 8}" fill="{colour}"/>',
        f'<line x1="{LABELS + row.least * scale:.1f}" x2="{end:.1f}" y1="{middle:.1f}" y2="{middle:.1f}" stroke="{INK}"/>',
        f'<text x="{end + 6:.1f}" y="{middle + 4:.1f}">{number(row.median)}</text>',
    ]
