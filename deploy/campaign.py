"""Campaign on containers: the demo against the running stack, while containers are killed and started again.

    make campaign-compose ARGS="--count 300"

One victim at a time, drawn with a fixed seed from all of them, broker and database included: SIGKILL, then start.
Exit code 0 only if every check of the demo holds and something was killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

from make_env import SCOPES, token

VICTIMS = ("orders", "stock", "payments", "shipments", "notifications", "gateway", "rabbitmq", "postgres")
BETWEEN_S = 2.0
HOUSE = Path(__file__).parents[1]


def main(arguments: list[str]) -> int:
    """Run the demo with `arguments`, kill meanwhile; the exit code."""
    url = f"http://127.0.0.1:{os.environ.get('GATEWAY_PORT', '8000')}"
    command = [str(Path(sys.executable).with_name("eventplat")), "demo", "--url", url, *arguments]
    demo = subprocess.Popen(command, cwd=HOUSE, env={**os.environ, "EVENTPLAT_DEMO_TOKEN": token(SCOPES)})
    chance, killed = Random(1), list[str]()
    while not _ended(demo, BETWEEN_S):
        victim = chance.choice(VICTIMS)
        _compose("kill", "--signal", "KILL", victim)
        _compose("start", victim)
        killed.append(victim)
    sys.stdout.write(f"\nkilled {len(killed)} containers meanwhile: {' '.join(killed)}\n")
    return demo.returncode if killed else 1


def _ended(demo: subprocess.Popen[bytes], within_s: float) -> bool:
    try:
        demo.wait(within_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _compose(*arguments: str) -> None:
    subprocess.run(["docker", "compose", *arguments], cwd=HOUSE, check=True, stdin=subprocess.DEVNULL, capture_output=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
