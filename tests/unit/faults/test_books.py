"""The audit of the letters: it sees one that is lost, doubled, or of an order that nobody placed."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.faults import books

THANKS = "Thank you for order o-1 over 6.00 GBP."
SORRY = "We could not take order o-2: out of stock."
BACK = "2.50 GBP of order o-1 are back on your account."


def letters(folder: Path, *written: str) -> list[str]:
    """What is wrong with these letters, where o-1 was completed and refunded twice, o-2 refused and o-3 is still open."""
    with sqlite3.connect(folder / "orders.db") as orders:
        orders.execute("CREATE TABLE placed_order (order_id, status)")
        orders.executemany("INSERT INTO placed_order VALUES (?, ?)", [("o-1", "completed"), ("o-2", "refused"), ("o-3", "paid")])
        orders.execute("CREATE TABLE refund (order_id, status)")
        orders.executemany("INSERT INTO refund VALUES ('o-1', ?)", [("completed",), ("completed",), ("dropped",)])
    with sqlite3.connect(folder / "notifications.db") as notifications:
        notifications.execute("CREATE TABLE letter (written)")
        notifications.executemany("INSERT INTO letter VALUES (?)", [(text,) for text in written])
    orders.close()
    notifications.close()
    return books._letters(books.of_files(folder))


def test_one_letter_for_each_ending_is_right(tmp_path: Path) -> None:
    assert letters(tmp_path, THANKS, BACK, SORRY, BACK) == []


@pytest.mark.parametrize(("written", "said"), [
    ((THANKS, BACK, BACK), "1 orders have no letter: refused o-2"),
    ((BACK, SORRY, BACK), "1 orders have no letter: completed o-1"),
    ((THANKS, SORRY, BACK), "1 orders have no letter: refunded o-1"),
    ((THANKS, THANKS, SORRY, BACK, BACK), "1 letters are one too many: completed o-1"),
    ((THANKS, SORRY, BACK, BACK, BACK), "1 letters are one too many: refunded o-1"),
    ((THANKS, SORRY, BACK, BACK, THANKS.replace("o-1", "o-3")), "1 letters are one too many: completed o-3"),
    ((THANKS, SORRY, BACK, BACK, "Hello."), "1 letters are one too many: unknown Hello."),
])  # fmt: skip
def test_a_letter_that_is_lost_doubled_or_wrong_is_named(written: tuple[str, ...], said: str, tmp_path: Path) -> None:
    assert letters(tmp_path, *written) == [said]
