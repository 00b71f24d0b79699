"""The private servers: they come back after SIGKILL, and nothing of them outlives the process that asked for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests import binaries
from tests.binaries import NotInstalled, ensure_packages
from tests.servers import PostgresServer, RabbitServer, free_ports

HOUSE = Path(__file__).parents[2]
PATIENCE_S = 30.0
OWNER = """
import os, signal
from tests.servers import PostgresServer
server = PostgresServer()
server.start()
print(server.pid, server.home, flush=True)
signal.pause()
"""

ASLEEP = """
import signal, subprocess
from tests.watchdog import watchdog
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
watchdog().tell("group", child.pid)
print(child.pid, flush=True)
signal.pause()
"""


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def rabbitmq() -> Iterator[RabbitServer]:
    server = RabbitServer()
    server.start()
    yield server
    server.remove()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda how: how.name)
def test_a_server_ends_with_the_process_that_started_it(how: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], cwd=HOUSE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid, home = owner.stdout.readline().split()
        assert psutil.pid_exists(int(pid))
        assert Path(home).is_dir()
        os.kill(owner.pid, how)

    wait_until(lambda: not _lives(int(pid)) and not Path(home).exists())


def test_the_watchdog_kills_a_process_that_would_not_end_by_itself() -> None:
    with subprocess.Popen([sys.executable, "-c", ASLEEP], cwd=HOUSE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert _lives(pid)
        os.kill(owner.pid, signal.SIGKILL)

    try:
        wait_until(lambda: not _lives(pid))
    finally:
        if _lives(pid):
            os.kill(pid, signal.SIGKILL)


def test_postgres_keeps_what_was_committed_over_a_sigkill(postgres: PostgresServer) -> None:
    url, first = postgres.create_database("kept"), postgres.pid
    postgres.sql("CREATE TABLE note AS SELECT 41 + 1 AS n", "kept")

    postgres.kill()
    assert not _lives(first)
    postgres.start()

    assert postgres.pid != first
    assert postgres.url_of("kept") == url
    assert postgres.sql("SELECT n FROM note", "kept").strip() == "42"


def test_rabbitmq_keeps_its_users_over_a_sigkill(rabbitmq: RabbitServer) -> None:
    url, first = rabbitmq.url, rabbitmq.pid
    rabbitmq.ctl("add_user", "kept", "secret")

    rabbitmq.kill()
    assert not _lives(first)
    rabbitmq.start()

    assert rabbitmq.url == url
    assert "kept" in rabbitmq.ctl("list_users")


def test_a_server_is_given_a_port_that_the_kernel_gives_to_nobody_else() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])

    ports = free_ports(100)

    assert len(set(ports)) == 100
    assert max(ports) < first


def test_who_may_not_install_a_missing_server_is_told_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    binaries._install.cache_clear()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))

    try:
        with pytest.raises(NotInstalled, match=r"rabbitmq-server is missing; as root: .*apt-get install -y .* postgresql"):
            ensure_packages()
    finally:
        binaries._install.cache_clear()  # else the answer given to this pretended user stays


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
