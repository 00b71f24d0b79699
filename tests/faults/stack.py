"""The whole shop as processes, each of which may die: on RabbitMQ with PostgreSQL, or embedded in one process.

A supervisor restarts what died after two seconds, as compose's restart policy would, and remembers how each death came.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import httpx

from services.demo.shop import Shop
from tests.servers import free_ports

SERVICES = ("orders", "stock", "payments", "shipments", "notifications")
RESTART_S = 2.0
TWIN = "-twin"
READY_S = 60.0
ROOT = Path(__file__).parents[2]

Kind = Literal["local", "embedded"]


@dataclass
class Death:
    """One unplanned end of a process."""

    name: str
    at: float                  # monotonic
    code: int                  # as subprocess has it: -9 for SIGKILL


@dataclass
class Stack:
    """The shop's processes.

    Args:
        kind: `local`: gateway and services each a process on the given servers; `embedded`: one process.
        folder: For data, logs and views.
        environment: Settings of every process.
    """

    kind: Kind
    folder: Path
    environment: Mapping[str, str]
    deaths: list[Death] = field(default_factory=list)
    port: int = field(default_factory=lambda: free_ports(1)[0])

    def __post_init__(self) -> None:
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._arms: defaultdict[str, list[str]] = defaultdict(list)   # what the next starts of a process are armed with
        self._stopping = False

    @property
    def names(self) -> tuple[str, ...]:
        """The processes that there are."""
        return ("embedded",) if self.kind == "embedded" else ("gateway", *SERVICES)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Stack:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in self.names:
            await self._start(name)
        await self.ready()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stopping = True
        for keeper in self._keepers.values():
            keeper.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)
        for process in self._processes.values():
            if process.returncode is None:
                process.terminate()
        for process in self._processes.values():
            try:
                await asyncio.wait_for(process.wait(), 15)
            except TimeoutError:
                process.kill()
                await process.wait()

    def pids(self) -> dict[str, int]:
        """The processes' ids, by name."""
        return {name: process.pid for name, process in self._processes.items()}

    def kill(self, name: str) -> None:
        """SIGKILL; the supervisor brings it back."""
        self._processes[name].send_signal(signal.SIGKILL)

    async def pause_for(self, name: str, seconds: float) -> None:
        """SIGSTOP: alive, and silent; then it goes on."""
        process = self._processes[name]
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            process.send_signal(signal.SIGCONT)

    async def double(self, name: str) -> None:
        """A second instance of a service, until `halve`."""
        await self._start(f"{name}{TWIN}")
        await self.ready(twice=name)

    async def halve(self, name: str) -> None:
        self._keepers.pop(f"{name}{TWIN}").cancel()
        process = self._processes.pop(f"{name}{TWIN}")
        process.terminate()
        await process.wait()

    async def arm(self, name: str, *arms: str) -> None:
        """Restart `name` armed with the first failpoints, and its next restarts with the others; after them unarmed."""
        self._arms[name] = list(arms)
        self._keepers[name].cancel()
        await asyncio.gather(self._keepers[name], return_exceptions=True)
        process = self._processes[name]
        if process.returncode is None:
            process.terminate()
            await process.wait()
        await self._start(name)
        await self.ready()

    def log(self, name: str) -> str:
        """What a process has written to standard error."""
        path = self._log(name)
        return path.read_text(errors="replace") if path.exists() else ""

    async def ready(self, *, twice: str = "") -> None:
        """Return once the gateway has heard every service, and two instances of `twice`."""
        wanted = {"/orders", "/items", "/accounts", "/shipments/{order_id}"}
        until = time.monotonic() + READY_S
        async with httpx.AsyncClient(base_url=self.url, timeout=5) as http:
            while time.monotonic() < until:
                if await self._is_ready(http, wanted, twice):
                    return
                await asyncio.sleep(0.1)
        raise TimeoutError(f"the shop is not ready after {READY_S:g} s:\n" + "\n".join(self.log(name)[-2_000:] for name in self.names))

    async def _is_ready(self, http: httpx.AsyncClient, wanted: set[str], twice: str) -> bool:
        try:
            health, paths = await http.get("/health/ready"), await http.get("/openapi.json")
        except httpx.TransportError:
            return False
        if not (health.is_success and paths.is_success and wanted <= paths.json()["paths"].keys()):
            return False
        instances = health.json()["instances"]
        return all(instances.get(name, 0) >= 1 + (name == twice) for name in SERVICES)

    async def _start(self, name: str) -> None:
        arm = self._arms[name].pop(0) if self._arms[name] else ""
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("EVENTPLAT_")},
            **self.environment,
            "EVENTPLAT_DATA_DIR": str(self.folder / "data"),   # shared: the keys that the gateway signs with stand there
            "EVENTPLAT_GATEWAY_PORT": str(self.port),
            "EVENTPLAT_FAILPOINTS": arm,
            "PYTHONPATH": str(ROOT),
        }
        with self._log(name).open("ab") as log:
            self._processes[name] = await asyncio.create_subprocess_exec(
                sys.executable, "-c", "from eventplat.cli.main import main; main()", *self._command(name),
                cwd=ROOT, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self._keepers[name] = asyncio.create_task(self._keep(name))

    async def _keep(self, name: str) -> None:
        code = await self._processes[name].wait()
        self.deaths.append(Death(name, time.monotonic(), code))
        await asyncio.sleep(RESTART_S)
        if not self._stopping:
            await self._start(name)

    def _command(self, name: str) -> Sequence[str]:
        if name == "embedded":
            return ("dev",)
        return ("gateway",) if name == "gateway" else ("run", f"services.{name.removesuffix(TWIN)}")

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


def shop_of(stack: Stack, http: httpx.AsyncClient) -> Shop:
    """A careful client of this stack."""
    assert str(http.base_url).startswith(stack.url)
    return Shop(http)
