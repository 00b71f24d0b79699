"""What a table, an age and a moment look like."""

from __future__ import annotations

import pytest

from eventplat.cli.output import age, first_line, moment, print_table

HOUR_US = 3_600_000_000


@pytest.mark.parametrize(
    ("us", "said"),
    [(0, "0 s"), (99_000_000, "99 s"), (100_000_000, "1 min"), (3 * HOUR_US, "3 h"), (47 * HOUR_US, "47 h"), (49 * HOUR_US, "2 d")],
)  # fmt: skip
def test_an_age_is_told_in_the_unit_that_fits(us: int, said: str) -> None:
    assert age(HOUR_US * 1_000 - us, HOUR_US * 1_000) == said


def test_what_is_unknown_has_no_age_and_no_moment() -> None:
    assert (age(None, 0), moment(None)) == (None, None)


def test_a_moment_beyond_the_calendar_is_its_end() -> None:
    assert (moment(0), moment(1 << 62)) == ("1970-01-01T00:00:00.000Z", "9999-12-31T23:59:59.000Z")


def test_into_a_pipe_no_value_of_a_table_is_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("id", "n"), [("x" * 150, 1), ("[red]y[/red]", None)], empty="none")

    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["x" * 150, "1"]
    assert lines[2].strip() == "[red]y[/red]", "what a handler raised is text, not markup"


def test_a_long_text_is_cut_at_its_first_line() -> None:
    assert first_line("one\ntwo") == "one"
    assert first_line("x" * 200, 10) == "x" * 9 + "…"
