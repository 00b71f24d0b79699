"""Figures: what a table says is what the rounds were."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from benchmarks.figures import Spread, in_order, number, ratio, spread_of
from benchmarks.plot import Bar, bars
from benchmarks.program import BODY_BYTES, Job, order, order_body, spread
from benchmarks.report import ratios, save, show
from benchmarks.suites import PUBLISH, SUITES

REPORTS: dict[str, list[dict[str, float]]] = {
    "ours": [{"rate": 400.0, "p50_ms": 2.0}, {"rate": 900.0, "p50_ms": 1.0}, {"rate": 500.0, "p50_ms": 3.0}],
    "peer": [{"rate": 100.0, "p50_ms": 4.0}, {"rate": 100.0, "p50_ms": 4.0}, {"rate": 250.0, "p50_ms": 3.0}],
    "silent": [{}],
}


def test_a_spread_is_the_median_the_least_and_the_most() -> None:
    assert spread_of(REPORTS, "ours", "rate") == Spread(500, 400, 900)


@pytest.mark.parametrize("row", ["silent", "nobody"])
def test_what_was_not_reported_has_no_spread(row: str) -> None:
    assert spread_of(REPORTS, row, "rate") is None


def test_a_ratio_is_formed_round_by_round() -> None:
    found = ratio(REPORTS, "ours", "peer", least=4)

    assert found is not None
    assert found.spread == Spread(4, 2, 9)
    assert found.is_reached


def test_a_lower_latency_is_the_better_one() -> None:
    found = ratio(REPORTS, "ours", "peer", least=2.5, figure="p50_ms")

    assert found is not None
    assert found.spread == Spread(2, 1, 4)
    assert not found.is_reached


def test_a_peer_that_was_not_measured_has_no_ratio() -> None:
    assert ratio(REPORTS, "ours", "nobody", least=1) is None


@pytest.mark.parametrize(("value", "text"), [(12_345, "12,300"), (1_234, "1,230"), (999, "999"), (87.14, "87.1"), (2.608, "2.61")])
def test_a_number_has_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_rows_run_forward_and_backward_by_turns() -> None:
    assert [in_order(3, round_number) for round_number in range(3)] == [[0, 1, 2], [2, 1, 0], [0, 1, 2]]


def test_every_message_is_of_the_same_size_and_the_same_json() -> None:
    assert {len(order_body(n)) for n in (0, 7, 12_345_678)} == {BODY_BYTES}
    assert json.loads(order_body(3)) == order(3)


def test_p50_and_p99_are_of_the_ordered_times() -> None:
    assert spread([n / 1_000 for n in range(100, 0, -1)]) == {"p50_ms": 51, "p99_ms": 100}


def test_a_bar_names_rows_that_its_suite_has() -> None:
    for suite in SUITES.values():
        assert {name for bar in suite.bars for name in (bar.row, bar.peer)} <= {row.name for row in suite.rows}
        assert len({row.name for row in suite.rows}) == len(suite.rows)


def test_every_row_has_its_program() -> None:
    room = Path(__file__).parents[3] / "benchmarks"
    programs = {program for suite in SUITES.values() for row in suite.rows for program in (row.program, row.beside) if program}

    files = {room / (program if program.endswith(".c") else f"{program}.py") for program in programs}
    assert [file for file in files if not file.exists()] == []


def test_a_job_is_read_as_it_was_written() -> None:
    job = PUBLISH.rows[0].job(0.5)

    assert Job(**json.loads(job.text())) == job
    assert job.total == job.warm + job.count


def test_a_plot_shows_every_row_and_escapes_its_name() -> None:
    drawn = ElementTree.fromstring(bars("a < b", "per second", [Bar("x & y", 10, 5, 20, is_ours=True), Bar("z", 1, 1, 1, is_ours=False)]))

    texts = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a < b", "x & y", "z", "10.0", "1.00"} <= set(texts)


def test_a_suite_is_shown_and_saved_with_what_was_measured(tmp_path: Path) -> None:
    row, peer = PUBLISH.bars[0].row, PUBLISH.bars[0].peer
    measured = {row: [{"rate": 900.0, "cpu_us": 10.0}], peer: [{"rate": 100.0, "cpu_us": 90.0}]}
    console = Console(record=True, width=120)

    show(console, PUBLISH, measured)
    save(tmp_path, PUBLISH, measured)

    assert f"{row} / {peer}: 9.00 (9.00..9.00), bar 4: reached" in console.export_text()
    assert [(each.row, each.peer) for each in ratios(PUBLISH, measured)] == [(row, peer)]
    assert json.loads((tmp_path / "publish.json").read_text())["ratios"][0]["median"] == 9
    assert (tmp_path / "publish.svg").read_text().startswith("<svg")
