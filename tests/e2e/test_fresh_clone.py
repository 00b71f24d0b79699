"""README's first command in a fresh clone: `make demo`, and its totals counted again from the databases that it leaves behind."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

from tests.faults.books import Fetch, audit, of_files

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Totals:
    """What a day came to; stock and money in the order in which the demo's two checks name them."""

    completed: int
    refused: dict[str, int]
    refunded: int
    stock: tuple[int, ...]
    money: tuple[Decimal, ...]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_make_demo_in_a_fresh_clone_exits_0_with_the_totals_of_its_databases(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)

    demo = subprocess.run(["make", "demo"], cwd=clone, env=_clean(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    assert demo.returncode == 0, demo.stdout + demo.stderr
    books = of_files(clone / ".eventplat" / "demo")
    assert _printed(demo.stdout) == _counted(books)
    assert audit(books, {}) == []
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True)
    assert changed.stdout == "", "the demo leaves nothing that git would see"


def _clean() -> dict[str, str]:
    """The environment of a user who has a shell and pip, and has set nothing else."""
    return {name: value for name, value in os.environ.items() if name in {"PATH", "HOME"} or name.startswith("PIP_")}


def _printed(output: str) -> Totals:
    def number(name: str) -> int:
        return int(_found(rf"^{name} +([0-9]+)", output)[1])

    refused = {reason: int(times) for reason, times in re.findall(r"([a-z_]+) ([0-9]+)", _found(r"^refused.*", output)[0])}
    assert sum(refused.values()) == number("refused")
    assert _found(r"^ok +orders: .* ([0-9]+) of ([0-9]+)$", output).groups() == ("300", "300")
    return Totals(
        completed=number("completed"),
        refused=refused,
        refunded=number("refunded"),
        stock=tuple(int(each) for each in _numbers(_found(r"^ok +stock: .*", output)[0])),
        money=tuple(Decimal(each) for each in _numbers(_found(r"^ok +money: .*", output)[0])),
    )


def _counted(books: Fetch) -> Totals:
    by_status = dict(books("orders", "SELECT status, COUNT(*) FROM placed_order GROUP BY status"))
    assert by_status.keys() <= {"completed", "refused"}
    opened = books("stock", "SELECT SUM(quantity) FROM movement WHERE order_id IS NULL")[0][0]
    sold = books("stock", "SELECT -SUM(quantity) FROM movement WHERE order_id IS NOT NULL")[0][0]
    left = books("stock", "SELECT SUM(available) FROM item")[0][0]
    booked = dict(books("payments", "SELECT kind, SUM(amount) FROM entry GROUP BY kind"))
    balances = books("payments", "SELECT SUM(balance) FROM account")[0][0]
    thousandths = (booked["deposit"], balances, -booked["charge"], booked["refund"])
    return Totals(
        completed=by_status["completed"],
        refused=dict(books("orders", "SELECT reason, COUNT(*) FROM placed_order WHERE status = 'refused' GROUP BY reason")),
        refunded=books("orders", "SELECT COUNT(DISTINCT order_id) FROM refund WHERE status = 'completed'")[0][0],
        stock=(opened, left, sold),
        money=tuple(Decimal(each) / 1_000 for each in thousandths),
    )


def _numbers(line: str) -> list[str]:
    return [each.replace(",", "") for each in re.findall(r"(?<![a-z])[0-9][0-9,.]*", line)]


def _found(pattern: str, text: str) -> re.Match[str]:
    found = re.search(pattern, text, re.MULTILINE)
    assert found is not None, f"{pattern!r} is not in:\n{text}"
    return found
