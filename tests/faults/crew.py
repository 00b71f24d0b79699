"""Crew: named processes, each of which may die and is brought back, as compose's restart policy would.

It remembers how each death came. Should the process that owns the crew be killed itself, `tests.watchdog` ends the crew.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.watchdog import kill_group, watchdog

RESTART_S = 2.0
STOP_S = 15.0
ROOT = Path(__file__).parents[2]


@dataclass
class Death:
    """One unplanned end of a process."""

    name: str
    at: float                  # monotonic
    code: int                  # as subprocess has it: -9 for SIGKILL


@dataclass
class Crew:
    """Python processes in `folder`, where each writes its log.

    Args:
        command: What `name` is, asked at each of its starts: the arguments of `python`, and its own environment.
        environment: Settings of every process; no other variable `EVENTPLAT_…` reaches them.
        restart_s: How long a process that died stays away.
    """

    folder: Path
    command: Callable[[str], tuple[Sequence[str], Mapping[str, str]]]
    environment: Mapping[str, str]
    restart_s: float = RESTART_S
    deaths: list[Death] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}

    def pids(self) -> dict[str, int]:
        """The processes' ids, by name."""
        return {name: process.pid for name, process in self._processes.items()}

    def log(self, name: str) -> str:
        """What a process has written."""
        path = self._log(name)
        return path.read_text(errors="replace") if path.exists() else ""

    async def start(self, name: str) -> None:
        """Run `name`, again and again as it dies."""
        arguments, own = self.command(name)
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("EVENTPLAT_")},
            **self.environment, "PYTHONPATH": str(ROOT), **own,
        }  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._log(name).open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *arguments, cwd=ROOT, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        watchdog().tell("group", process.pid)
        self._processes[name] = process
        self._keepers[name] = asyncio.create_task(self._keep(name, process))

    def kill(self, name: str) -> None:
        """SIGKILL; it is brought back."""
        self._signal(name, signal.SIGKILL)

    async def pause_for(self, name: str, seconds: float) -> None:
        """SIGSTOP: alive, and silent; then it goes on."""
        self._signal(name, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._signal(name, signal.SIGCONT)

    async def stop(self, *names: str) -> None:
        """SIGTERM to these, all at once, and wait; one that does not end is killed. They stay away."""
        keepers = [self._keepers.pop(name) for name in names if name in self._keepers]
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        leaving = [self._processes.pop(name) for name in names if name in self._processes]
        for process in leaving:
            if process.returncode is None:
                process.terminate()
        await asyncio.gather(*(_gone(process) for process in leaving))

    async def stop_all(self) -> None:
        await self.stop(*list(self._processes))

    async def _keep(self, name: str, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        watchdog().tell("gone", process.pid)
        self.deaths.append(Death(name, time.monotonic(), code))
        await asyncio.sleep(self.restart_s)
        await self.start(name)

    def _signal(self, name: str, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it is on its way back
            self._processes[name].send_signal(number)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


async def _gone(process: asyncio.subprocess.Process) -> None:
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        kill_group(process.pid)
        await process.wait()
    watchdog().tell("gone", process.pid)
