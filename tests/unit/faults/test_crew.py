"""A crew brings back who dies, and goes with its owner."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from tests.faults.crew import ROOT, Crew

WITHIN_S = 20.0
SLEEPER = ("-c", "import os, time; print(os.environ['EVENTPLAT_TURN'], flush=True); time.sleep(600)")
OWNER = """
import asyncio, pathlib, sys
from tests.faults.crew import Crew
from tests.unit.faults.test_crew import SLEEPER

async def main():
    crew = Crew(pathlib.Path(sys.argv[1]), lambda name: (SLEEPER, {"EVENTPLAT_TURN": "1"}), {})
    await crew.start("a")
    print(crew.pids()["a"], flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_who_is_killed_is_brought_back_with_the_next_command_until_it_is_stopped(tmp_path: Path) -> None:
    turns = iter("123")

    def command(name: str) -> tuple[Sequence[str], Mapping[str, str]]:
        return SLEEPER, {"EVENTPLAT_TURN": f"{name}{next(turns)}"}

    async def test() -> None:
        crew = Crew(tmp_path, command, {}, restart_s=0.0)
        await crew.start("a")
        await until(lambda: crew.log("a") == "a1\n")
        first = crew.pids()["a"]
        crew.kill("a")
        await until(lambda: crew.log("a") == "a1\na2\n")
        second = crew.pids()["a"]
        await crew.stop("a")
        assert [(death.name, death.code) for death in crew.deaths] == [("a", -9)]
        assert not psutil.pid_exists(first)
        assert not psutil.pid_exists(second)
        assert crew.pids() == {}

    asyncio.run(test())


def test_a_crew_ends_with_an_owner_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        member = int(owner.stdout.readline())
        assert psutil.pid_exists(member)
        owner.kill()

    asyncio.run(until(lambda: not psutil.pid_exists(member) or psutil.Process(member).status() == psutil.STATUS_ZOMBIE))
