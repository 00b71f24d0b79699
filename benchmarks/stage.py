"""Stage: the servers, queues and databases that programs are measured on, and the programs' processes.

Servers are private ones, as the tests start them (PostgreSQL with fsync), or those of EVENTPLAT_BENCH_AMQP_URL and
EVENTPLAT_BENCH_POSTGRES_URL.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pika

from benchmarks.ours.shop import NAMES, SERVICE, Placed, opened, placed, sender
from benchmarks.program import Job
from eventplat import Service
from eventplat.broker.topology import EVENTS
from eventplat.broker.transport import Confirmed
from eventplat.service.endpoint import topology
from tests.servers import PostgresServer, RabbitServer

HERE = Path(__file__).parent
PEERS_PYTHON: Path | None = HERE.parent / ".venv-bench/bin/python"   # None: our own
TIMEOUT_S = 180.0
FILL_BATCH = 512


class ProgramFailed(Exception):
    """A measured program ended with an error; the message ends with what it wrote."""


class Stage:
    """Servers that are started when first needed and removed at the end."""

    def __init__(self) -> None:
        self._servers: list[RabbitServer | PostgresServer] = []
        self._folder = Path(tempfile.mkdtemp(prefix="eventplat-bench-"))
        self._queues: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for server in self._servers:
            server.remove()
        shutil.rmtree(self._folder, ignore_errors=True)

    @cached_property
    def amqp(self) -> str:
        """The broker's URL."""
        if given := os.environ.get("EVENTPLAT_BENCH_AMQP_URL"):
            return given
        server = RabbitServer()
        self._servers.append(server)
        server.start()
        return server.url

    @cached_property
    def _postgres(self) -> PostgresServer:
        server = PostgresServer()
        self._servers.append(server)
        server.start()
        return server

    @cached_property
    def limit(self) -> Path | None:
        """The C client, compiled; None where librabbitmq-dev or gcc is missing."""
        binary = self._folder / "limit"
        built = ["gcc", "-O2", "-o", str(binary), str(HERE / "limit.c"), "-lrabbitmq"]
        if shutil.which("gcc") is None or subprocess.run(built, capture_output=True, check=False).returncode:
            return None
        return binary

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"bench_{uuid.uuid4().hex[:12]}"
        if (given := os.environ.get("EVENTPLAT_BENCH_POSTGRES_URL")) is None:
            return self._postgres.create_database(name)
        subprocess.run(["psql", "-X", "-q", "-d", given, "-c", f'CREATE DATABASE "{name}"'], check=True)
        return f"{given.rpartition('/')[0]}/{name}"

    def name(self) -> str:
        """A name that no queue has had; a queue of that name is deleted with the others."""
        self._queues.append(f"bench-{uuid.uuid4().hex[:8]}")
        return self._queues[-1]

    def queue(self, bound_to: str = "") -> str:
        """A new quorum queue, bound to our events of some routing keys where given."""
        name = self.name()
        with self._channel() as channel:
            channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
            if bound_to:
                channel.exchange_declare(NAMES.exchange(EVENTS), "topic", durable=True)
                channel.queue_bind(name, NAMES.exchange(EVENTS), bound_to)
        return name

    def our_queue(self, handler: str) -> str:
        """The queue of our service's `handler` of `Placed`, as its topology has it, new."""
        service = Service(SERVICE, database=False)
        service.on(Placed, name=handler)(_nothing)
        name = NAMES.queue(f"{SERVICE}.{handler}")
        with self._channel() as channel:
            channel.queue_delete(name)
        asyncio.run(self._declare(service))
        self._queues.append(name)
        return name

    def fill(self, queue: str, count: int) -> None:
        """Put `count` messages in `queue`, in our envelope, which is plain JSON to others."""
        asyncio.run(self._fill(queue, count))

    def left(self, queue: str) -> int:
        """Messages that are still in `queue`, delivered or not."""
        with self._channel() as channel:
            return int(channel.queue_declare(queue, passive=True).method.message_count)

    def queues(self) -> list[str]:
        """The queues of this run that are still to be deleted."""
        return list(self._queues)

    def clear(self) -> None:
        """Delete them."""
        with self._channel() as channel:
            for name in self._queues:
                channel.queue_delete(name)
        self._queues.clear()

    def run(self, program: str, job: Job) -> dict[str, Any]:
        """Run a program and return its figures.

        Raises:
            ProgramFailed: With what it wrote.
        """
        with self.beside(job.options.pop("beside", ""), job):
            command = self._command(program, job)
            done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        if "BENCH_PROFILE" in os.environ:
            sys.stderr.write(done.stderr)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]  # a peer may say goodbye
        if done.returncode or not lines:
            raise ProgramFailed(f"{program} ended with {done.returncode}:\n{done.stderr[-3_000:]}")
        figures: dict[str, Any] = json.loads(lines[-1])
        return figures

    @contextlib.contextmanager
    def beside(self, program: str, job: Job) -> Iterator[None]:
        """`program` runs meanwhile; it says "ready" when it is, and ends with its standard input."""
        if not program:
            yield
            return
        command = self._command(program, job)
        with subprocess.Popen(command, cwd=HERE.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                if process.stdout.readline().strip() != "ready":
                    raise ProgramFailed(f"{program} did not start")
                yield
            finally:
                process.kill()

    def _command(self, program: str, job: Job) -> list[str]:
        if program == "limit.c":
            port, what = self.amqp.rstrip("/").rpartition(":")[2], job.variant or "publish"
            return [str(self.limit), what, port, job.queue, *map(str, (job.count, job.warm, job.window))]
        python = sys.executable if program.startswith("ours/") or PEERS_PYTHON is None else str(PEERS_PYTHON)
        return [python, "-m", f"benchmarks.{program.replace('/', '.')}", job.text()]

    async def _declare(self, service: Service[None]) -> None:
        transport = await opened(self.amqp)
        await transport.declare(topology(service, NAMES))
        await transport.close()

    async def _fill(self, queue: str, count: int) -> None:
        transport, envelopes = await opened(self.amqp), sender()
        for start in range(0, count, FILL_BATCH):
            numbers = range(start, min(start + FILL_BATCH, count))
            letters = [replace(envelopes.letter(placed(n), cause=None), exchange="", routing_key=queue).outgoing() for n in numbers]
            if not all(isinstance(outcome, Confirmed) for outcome in await transport.publish(letters, timeout_s=60)):
                raise ProgramFailed(f"{queue} could not be filled")
        await transport.close()

    @contextlib.contextmanager
    def _channel(self) -> Iterator[Any]:
        connection = pika.BlockingConnection(pika.URLParameters(self.amqp))
        try:
            yield connection.channel()
        finally:
            connection.close()


async def _nothing(_: Placed, __: object) -> None:
    """The handler of a service that is only declared."""
