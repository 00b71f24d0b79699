"""Servers: a private RabbitMQ and a private PostgreSQL for one test process.

Each server has a data directory of its own in the temporary directory, free ports, and listens on loopback
only. A process that needs "a broker" or "a database" asks for `rabbitmq_url()` or `postgres_url()` and shares
one instance with everything else in that process; a test that kills a server makes one for itself.

Nothing is left behind: `tests.watchdog` kills the servers and removes their directories when this process has
ended, in whichever way.

    python -m tests.servers       start both, print their URLs as `export` lines, stay until Ctrl-C
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from tests.binaries import epmd, postgres_bin, rabbitmq_bin
from tests.watchdog import kill_group, watchdog

START_S = 90.0  # an Erlang node on a busy two-core machine takes about ten
STOP_S = 60.0
POLL_S = 0.05
PORTS = range(15_000, 32_000)  # below 32768, where Linux begins to hand out ports by itself


class ServerFailed(Exception):
    """A server did not start or stop; the message ends with its log."""


class Server:
    """One server process in a session of its own, with a data directory that outlives its restarts."""

    name = "server"

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix=f"eventplat-{self.name}-"))
        self.home.chmod(0o755)
        watchdog().tell("dir", self.home)
        self.process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        atexit.register(self._at_exit)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its group."""
        if self.process is None:
            raise ServerFailed(f"{self.name} is not running")
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL to the process and all it started: nothing is flushed, nobody is told. Returns when all are dead."""
        if self.process is not None:
            family = _family(self.process.pid)
            for one in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            self._gone()
            _await_ends(family)

    def log(self) -> str:
        """The last 4000 characters the server wrote."""
        path = self.home / "out.log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def remove(self) -> None:
        """Kill the server and delete its data."""
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def _at_exit(self) -> None:
        """Reap what still runs; in a forked child it is the parent's."""
        if os.getpid() == self._owner:
            self.remove()

    def _spawn(self, command: Sequence[str], env: Mapping[str, str] | None = None, user: str | None = None) -> None:
        if self.is_running:
            raise ServerFailed(f"{self.name} is already running")
        with (self.home / "out.log").open("ab") as out:
            self.process = subprocess.Popen(
                command, cwd=self.home, env=env, user=user, group=user, extra_groups=[] if user else None,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )
        watchdog().tell("group", self.process.pid)

    def _until(self, is_ready: Callable[[], bool]) -> None:
        """Wait until the server answers; fail at once when its process ends before."""
        deadline = time.monotonic() + START_S
        while not is_ready():
            if not self.is_running or time.monotonic() > deadline:
                self.kill()
                raise ServerFailed(f"{self.name} did not start in {START_S:.0f} s:\n{self.log()}")
            time.sleep(POLL_S)

    def _end(self, how: signal.Signals) -> None:
        """Signal the first process and wait until it is gone."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, how)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailed(f"{self.name} did not stop in {STOP_S:.0f} s:\n{self.log()}") from None
        self._gone()

    def _gone(self) -> None:
        if self.process is not None:
            self.process.wait()
            watchdog().tell("gone", self.process.pid)
            self.process = None


class RabbitServer(Server):
    """RabbitMQ as the distribution ships it, without plugins unless asked.

    The name server (epmd) is one of its own too and stays up while the broker is killed and started again.
    """

    name = "rabbitmq"

    def __init__(self, config: str = "", plugins: Sequence[str] = (), *, beside: RabbitServer | None = None) -> None:
        """A node by itself.

        Args:
            config: Appended to rabbitmq.conf.
            plugins: Enabled by name, as "rabbitmq_stream".
            beside: A node that this one may join (`tests.cluster`): it shares that one's name server and secret.
        """
        super().__init__()
        self.bin = rabbitmq_bin()
        self.node = f"eventplat-{uuid.uuid4().hex[:8]}@localhost"
        self.port, self._epmd_port, dist_port = free_ports(3)
        self._epmd: subprocess.Popen[bytes] | None = None
        self._beside, self._cookie = beside, uuid.uuid4().hex
        if beside is not None:
            self._epmd_port, self._cookie = beside._epmd_port, beside._cookie
        (self.home / ".erlang.cookie").write_text(self._cookie)
        (self.home / ".erlang.cookie").chmod(0o400)
        (self.home / "plugins").write_text(f"[{','.join(plugins)}].")
        (self.home / "rabbitmq.conf").write_text(f"disk_free_limit.absolute = 50MB\nconsumer_timeout = 1800000\n{config}\n")
        self._env = {
            "PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.home), "LANG": "C.UTF-8",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_PORT": str(self.port), "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(dist_port), "ERL_EPMD_PORT": str(self._epmd_port), "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_MNESIA_BASE": str(self.home / "mnesia"), "RABBITMQ_LOG_BASE": str(self.home / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.home / "plugins"), "RABBITMQ_CONFIG_FILE": str(self.home / "rabbitmq"),
            "RABBITMQ_PID_FILE": str(self.home / "pid"), "RABBITMQ_CONF_ENV_FILE": str(self.home / "none"),
            # one scheduler that sleeps when idle: a broker beside the tests must not spin on the tests' cores
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none -kernel inet_dist_use_interface {127,0,0,1} net_ticktime 15",
        }

    @property
    def url(self) -> str:
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """The same by another way, as a proxy's port."""
        return f"amqp://guest:guest@127.0.0.1:{port}/"

    def start(self) -> None:
        """Start the broker and wait until it speaks AMQP."""
        if self._epmd is None and self._beside is None:
            self._epmd = subprocess.Popen(
                [epmd(), "-port", str(self._epmd_port), "-address", "127.0.0.1"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )
            watchdog().tell("group", self._epmd.pid)
            self._until_listening(self._epmd_port)
        self._spawn([str(self.bin / "rabbitmq-server")], self._env)
        self._until(lambda: speaks_amqp(self.port))

    def stop(self) -> None:
        """Stop it as an administrator would; queues are closed in order."""
        if self.process is not None:
            self.ctl("stop")
            self._end(signal.SIGCONT)  # nothing but a wait: `stop` has told it

    def restart(self) -> None:
        self.stop()
        self.start()

    def remove(self) -> None:
        super().remove()
        if self._epmd is not None:
            kill_group(self._epmd.pid)
            self._epmd.wait()
            watchdog().tell("gone", self._epmd.pid)
            self._epmd = None

    def ctl(self, *args: str, tool: str = "rabbitmqctl") -> str:
        """What `rabbitmqctl ARGS` prints, or another of RabbitMQ's tools.

        Raises:
            ServerFailed: It ended with an error, or not in time.
        """
        command = [str(self.bin / tool), "--quiet", *args]
        try:
            done = subprocess.run(
                command, env=self._env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=STOP_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise ServerFailed(f"{tool} {' '.join(args)} did not end in {STOP_S:.0f} s") from None
        if done.returncode:
            raise ServerFailed(f"{tool} {' '.join(args)} ended with {done.returncode}: {done.stderr}{done.stdout}")
        return done.stdout

    def _until_listening(self, port: int) -> None:
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
                return
            if time.monotonic() > deadline:
                raise ServerFailed(f"epmd does not listen on port {port}")
            time.sleep(POLL_S)


class PostgresServer(Server):
    """PostgreSQL with one superuser, `postgres`, and no password; run as the `postgres` user when this process is root."""

    name = "postgres"

    def __init__(self, **settings: str) -> None:
        """`settings` are postgresql.conf parameters, as fsync="off"."""
        super().__init__()
        self.bin = postgres_bin()
        self.port = free_ports(1)[0]
        self.data = self.home / "data"
        self._user = "postgres" if os.geteuid() == 0 else None
        self._settings = {
            "listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": "", "max_connections": "200",
            "max_prepared_transactions": "50", "shared_buffers": "64MB", **settings,
        }
        if self._user:
            shutil.chown(self.home, self._user, self._user)
        self._run("initdb", "-D", str(self.data), "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")

    @property
    def url(self) -> str:
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it takes connections, after crash recovery if there was a crash."""
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        self._spawn([str(self.bin / "postgres"), "-D", str(self.data), *options], user=self._user)
        self._until(self._accepts)

    def stop(self, mode: str = "fast") -> None:
        """`smart` waits for the clients, `fast` rolls them back, `immediate` leaves recovery to the next start."""
        self._end({"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode])

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    def create_database(self, name: str | None = None) -> str:
        """The URL of a new, empty database."""
        name = name or f"test_{uuid.uuid4().hex[:12]}"
        self.sql(f'CREATE DATABASE "{name}"')
        return self.url_of(name)

    def sql(self, statement: str, database: str = "postgres") -> str:
        """What `psql` prints for `statement`, without headings."""
        return self._run("psql", "-X", "-At", "-v", "ON_ERROR_STOP=1", "-d", self.url_of(database), "-c", statement)

    def _accepts(self) -> bool:
        command = [str(self.bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"]
        return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode == 0

    def _run(self, program: str, *args: str) -> str:
        done = subprocess.run(
            [str(self.bin / program), *args], cwd=self.home,
            user=self._user, group=self._user, extra_groups=[] if self._user else None,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=STOP_S, check=False,
        )
        if done.returncode:
            raise ServerFailed(f"{program} ended with {done.returncode}: {done.stderr}{done.stdout}")
        return done.stdout


def rabbitmq_url() -> str:
    """The broker for this process's tests: EVENTPLAT_TEST_AMQP_URL, or one private RabbitMQ."""
    return os.environ.get("EVENTPLAT_TEST_AMQP_URL") or shared_rabbitmq().url


def postgres_url() -> str:
    """The database for this process's tests: EVENTPLAT_TEST_POSTGRES_URL, or one private PostgreSQL."""
    return os.environ.get("EVENTPLAT_TEST_POSTGRES_URL") or shared_postgres().url


def fresh_database() -> str:
    """The URL of a new, empty database on that server."""
    url = os.environ.get("EVENTPLAT_TEST_POSTGRES_URL")
    if not url:
        return shared_postgres().create_database()
    name = f"test_{uuid.uuid4().hex[:12]}"
    command = [str(postgres_bin() / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", f'CREATE DATABASE "{name}"']
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
    return f"{url.rpartition('/')[0]}/{name}"


@functools.cache
def shared_rabbitmq() -> RabbitServer:
    """This process's RabbitMQ, started at the first call."""
    server = RabbitServer()
    server.start()
    return server


@functools.cache
def shared_postgres() -> PostgresServer:
    """This process's PostgreSQL, started at the first call. Without fsync: tests kill processes, never the machine."""
    server = PostgresServer(fsync="off")
    server.start()
    return server


def speaks_amqp(port: int) -> bool:
    """Whether an AMQP header is answered with connection.start, a frame of type 1."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
    except OSError:
        return False


def free_ports(count: int) -> list[int]:
    """`count` ports that nothing listens on now and that the kernel gives to nobody who asks for any port.

    A port from the kernel's range can go to another process while its server is down; the server cannot come back then.
    """
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for port in random.sample(PORTS, len(PORTS)):
            if len(found) == count:
                break
            one = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                one.bind(("127.0.0.1", port))
                found.append(port)
    if len(found) < count:
        raise ServerFailed(f"no {count} free ports between {PORTS[0]} and {PORTS[-1]}")
    return found


def _family(pid: int) -> list[psutil.Process]:
    """A process and all below it; PostgreSQL's backends and Erlang's port programs leave the group."""
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _await_ends(family: Sequence[psutil.Process]) -> None:
    """Wait until each has ended: a backend that outlives its postmaster blocks the next start."""
    deadline = time.monotonic() + STOP_S
    while any(_lives(one) for one in family):
        if time.monotonic() > deadline:
            raise ServerFailed(f"still there after SIGKILL: {family}")
        time.sleep(POLL_S)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def main() -> None:
    """Start both, print their URLs, stay."""
    rabbitmq, postgres = rabbitmq_url(), postgres_url()
    print(f"export EVENTPLAT_TEST_AMQP_URL={rabbitmq}")  # noqa: T201
    print(f"export EVENTPLAT_TEST_POSTGRES_URL={postgres}", flush=True)  # noqa: T201
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


if __name__ == "__main__":
    main()
