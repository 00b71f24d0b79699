"""Pulse: a file that a service touches while it is well, for health checks that cannot ask it.

A service has no port. What it has is a loop, consumers that the broker counts, and a row that it renews in its database;
as long as all three hold, the file is young. A process that hangs, or has lost its broker or its database, lets it grow old,
and so does one that died: nobody has to remove anything.

Next: cli.health
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from eventplat.clock import Clock
from eventplat.lifecycle import Loop


class Pulse:
    """Touches `path` every `every_s` seconds while `is_well`."""

    def __init__(self, path: Path, is_well: Callable[[], bool], *, every_s: float, clock: Clock) -> None:
        self._path, self._is_well = path, is_well
        self._loop = Loop(f"{path.name} pulse", self._beat, every_s=every_s, clock=clock)

    async def start(self) -> None:
        await self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()
        self._path.unlink(missing_ok=True)

    async def _beat(self) -> None:
        if self._is_well():
            self._path.touch()


def pulse_path(data_dir: Path, service: str) -> Path:
    """Where the pulse of `service` is felt."""
    return data_dir / f"{service}.pulse"


def age_s(path: Path) -> float | None:
    """Seconds since the last beat; None: there was none."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return None
