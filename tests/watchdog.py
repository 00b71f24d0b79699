"""Watchdog: ends what a test process started, after that process has ended in whichever way.

It holds the reading end of a pipe. The owner tells it over the pipe what there is to clean; when the owner exits,
or is killed, the pipe closes, and the watchdog kills those process groups and removes those directories.

Run as a script, with only the standard library: `python watchdog.py` reads its orders from stdin.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Literal

CLEANED_S = 60.0
POLL_S = 0.05


class Watchdog:
    """The owner's end of the pipe."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, cwd="/",
        )
        self._owner = os.getpid()
        atexit.register(self.close)

    def tell(self, what: Literal["group", "gone", "dir"], value: object) -> None:
        """Put a process group or a directory on the list; `gone` takes a group off it."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what} {value}\n".encode())
        self.process.stdin.flush()

    def close(self) -> None:
        """Let it clean now, and wait for it. A forked child only drops its copy of the pipe."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        if os.getpid() == self._owner:
            self.process.wait(CLEANED_S)


@functools.cache
def watchdog() -> Watchdog:
    """This process's watchdog, started at the first call."""
    return Watchdog()


def kill_group(group: int) -> None:
    """SIGKILL to every process of `group`, if there is one left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def watch(told: IO[str]) -> None:
    """Remember what is told until the pipe closes, then clean."""
    groups: set[int] = set()
    directories: list[Path] = []
    for line in told:
        what, _, value = line.rstrip("\n").partition(" ")
        if what == "dir":
            directories.append(Path(value))
        elif what == "group":
            groups.add(int(value))
        else:
            groups.discard(int(value))
    for group in groups:
        kill_group(group)
    for directory in directories:
        _remove(directory)


def _remove(directory: Path) -> None:
    """Remove it; a dying server may still write for a moment."""
    deadline = time.monotonic() + 10
    while directory.exists() and time.monotonic() < deadline:
        shutil.rmtree(directory, ignore_errors=True)
        time.sleep(POLL_S)


if __name__ == "__main__":
    watch(sys.stdin)
