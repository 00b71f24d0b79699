"""`make bench`: runs the suites and prints their tables.

    make bench ARGS="--suite publish --suite consume --rounds 3"
    make bench ARGS="--quick"            a smoke run: few messages, one round, figures without meaning
    make bench ARGS="--suite checkout"   the shop through the gateway; --seconds 20 --at-once 16

Tables go to the terminal; figures, and a plot for each suite, to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from rich.console import Console

from benchmarks import checkout, report
from benchmarks.rounds import measure
from benchmarks.stage import Stage
from benchmarks.suites import SUITES

RESULTS = Path(__file__).parent / "results"
QUICK = 0.02    # of the messages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", action="append", choices=[*SUITES, "checkout"], help="default: all but checkout")
    parser.add_argument("--row", action="append", help="only rows with this in their names")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of the messages of a full run")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=float, default=20.0, help="of load in each round of checkout")
    parser.add_argument("--at-once", type=int, default=16, help="checkouts in flight")
    given = parser.parse_args()
    chosen = given.suite or list(SUITES)
    rounds, share = (1, QUICK) if given.quick else (given.rounds, given.share)
    console = Console(highlight=False)
    with Stage() as stage:
        for name in chosen:
            if name == "checkout":
                asyncio.run(checkout.measure(seconds=given.seconds, rounds=rounds, at_once=given.at_once))
                continue
            suite = SUITES[name]
            measured = measure(suite, stage, rounds=rounds, share=share, only=given.row or (), tell=console.print)
            report.show(console, suite, measured)
            report.save(RESULTS, suite, measured)


if __name__ == "__main__":
    main()
