"""Binaries: where RabbitMQ and PostgreSQL are on this machine, the newest version first.

When one is missing, root on a Debian or Ubuntu installs both packages; anybody else is told the command.
A container may forbid that a package starts its service: nothing here needs the service.

    python -m tests.binaries      install what is missing, print where it is
"""

from __future__ import annotations

import fcntl
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

INSTALL = "apt-get update && apt-get install -y --no-install-recommends rabbitmq-server postgresql"
LOCK = Path(tempfile.gettempdir()) / "eventplat-install.lock"


class NotInstalled(Exception):
    """A server's program is missing; the message has the command that installs it."""


def rabbitmq_bin() -> Path:
    """The directory of rabbitmq-server and rabbitmqctl, as packaged, without the root-only wrapper in /usr/sbin."""
    places = ["/usr/lib/rabbitmq/bin", "/usr/lib/rabbitmq/lib/*/sbin", "/opt/rabbitmq/sbin", "/usr/local/sbin"]
    return _found(places, "rabbitmq-server")


def postgres_bin() -> Path:
    """The directory of postgres, initdb and psql."""
    return _found(["/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin", "/usr/local/bin", "/usr/bin"], "initdb")


def epmd() -> Path:
    """Erlang's name server."""
    return _found(["/usr/bin", "/usr/local/bin", "/usr/lib/erlang/erts-*/bin", "/usr/local/lib/erlang/erts-*/bin"], "epmd") / "epmd"


def ensure_packages() -> None:
    """Install what is missing now: in the middle of a test it would count as the test's time.

    Raises:
        NotInstalled: Something is missing and cannot be installed here; the message has the command.
    """
    for find in (rabbitmq_bin, postgres_bin, epmd):
        find()


def _found(patterns: Sequence[str], program: str) -> Path:
    """The newest directory of the first pattern that holds `program`; installs the packages when nothing does."""
    for is_last in (False, True):
        for pattern in patterns:
            hits = [path.parent for path in Path("/").glob(f"{pattern}/{program}"[1:])]
            if hits:
                return max(hits, key=_version)
        if not is_last and (failure := _install(program)):
            raise NotInstalled(failure)
    raise NotInstalled(f"{program} is still missing after: {INSTALL}")


def _version(path: Path) -> list[int]:
    """The numbers in a path: 15 is newer than 9.6, which text order would deny."""
    return [int(digits) for digits in re.findall(r"\d+", str(path))]


@functools.cache
def _install(program: str) -> str:
    """Install both packages; what went wrong, or nothing. A failure is remembered: the next test is told at once."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return f"{program} is missing; as root: {INSTALL}"
    sys.stderr.write(f"{program} is missing; running: {INSTALL}\n")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes at once: apt-get refuses all but the first
        done = subprocess.run(["sh", "-c", INSTALL], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return f"`{INSTALL}` ended with {done.returncode}:\n{done.stdout[-1000:]}{done.stderr[-3000:]}" if done.returncode else ""


if __name__ == "__main__":
    ensure_packages()
    print(rabbitmq_bin(), postgres_bin(), epmd())  # noqa: T201
