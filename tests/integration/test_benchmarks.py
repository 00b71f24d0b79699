"""The benchmark's programs run: one tiny round of ours and of pika alone, on a real broker."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from benchmarks.rounds import measure
from benchmarks.stage import Stage
from benchmarks.suites import CONSUME, PUBLISH
from tests.servers import rabbitmq_url

OURS = sorted(path.stem for path in (Path(__file__).parents[2] / "benchmarks/ours").glob("[a-z]*.py"))


@pytest.mark.parametrize("name", OURS)
def test_our_programs_can_be_imported(name: str) -> None:
    importlib.import_module(f"benchmarks.ours.{name}")


def test_a_tiny_round_gives_figures_and_leaves_no_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTPLAT_BENCH_AMQP_URL", rabbitmq_url())
    for file in ("rounds", "stage"):
        monkeypatch.setattr(f"benchmarks.{file}.PEERS_PYTHON", None)   # pika is in our own environment too

    with Stage() as stage:
        published = measure(PUBLISH, stage, rounds=1, share=0.002, only=["eventplat, batches", "pika, window"])
        consumed = measure(CONSUME, stage, rounds=1, share=0.002, only=["eventplat"])
        left = stage.queues()

    assert all(report["rate"] > 0 for reports in (*published.values(), *consumed.values()) for report in reports)
    assert (len(published), len(consumed), left) == (2, 1, [])
