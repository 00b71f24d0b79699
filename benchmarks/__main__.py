"""`make bench`: runs the benchmarks and prints their tables.

    python -m benchmarks [--seconds 20] [--rounds 3] [--at-once 16]
"""

from __future__ import annotations

import argparse
import asyncio

from benchmarks.checkout import measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of load in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=16, help="checkouts in flight")
    given = parser.parse_args()
    asyncio.run(measure(seconds=given.seconds, rounds=given.rounds, at_once=given.at_once))


if __name__ == "__main__":
    main()
