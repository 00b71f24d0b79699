"""Rounds: every row of a suite once per round, the order turned about with each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.figures import in_order
from benchmarks.stage import PEERS_PYTHON, ProgramFailed, Stage
from benchmarks.suites import C_CLIENT, Row, Suite


def measure(
    suite: Suite, stage: Stage, *, rounds: int, share: float = 1.0, only: Sequence[str] = (), tell: Callable[[str], None] = print
) -> dict[str, list[dict[str, Any]]]:
    """Run the rows that can run here.

    Args:
        share: Of each row's messages.
        only: Parts of row names; empty: all.

    Returns:
        By row, what its program reported in each round.
    """
    rows = [row for row in suite.rows if (not only or any(part in row.name for part in only)) and _can_run(row, stage, tell)]
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for round_number in range(rounds):
        for place in in_order(len(rows), round_number):
            row = rows[place]
            found[row.name].append(_run(row, stage, share))
            tell(f"  {suite.name} {round_number + 1}/{rounds} {row.name}: " + _short(found[row.name][-1]))
    return {row.name: found[row.name] for row in rows}


def _run(row: Row, stage: Stage, share: float) -> dict[str, Any]:
    job = row.job(share)
    job.amqp = stage.amqp
    row.prepare(stage, job)
    job.options["beside"] = row.beside
    try:
        figures = stage.run(row.program, job)
        allowed = job.options.get("left")
        if allowed is not None and (left := stage.left(job.queue)) > allowed + (0 if row.is_ours else row.window):
            raise ProgramFailed(f"{row.name} left {left} messages in its queue")  # a peer's last acks may go with its connection
    finally:
        stage.clear()
    return figures


def _can_run(row: Row, stage: Stage, tell: Callable[[str], None]) -> bool:
    if row.program == C_CLIENT and stage.limit is None:
        tell(f"{row.name} is left out: apt-get install gcc librabbitmq-dev")
        return False
    if row.program.startswith("peers/") and PEERS_PYTHON is not None and not PEERS_PYTHON.exists():
        tell(f"{row.name} is left out: `make bench` installs the peers in .venv-bench")
        return False
    return True


def _short(figures: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:,.2f}" for name, value in figures.items() if isinstance(value, float))
