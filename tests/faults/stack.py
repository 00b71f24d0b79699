"""The whole shop as processes, each of which may die: on RabbitMQ with PostgreSQL, or embedded in one process.

Its crew restarts what died after two seconds (`tests.faults.crew`).
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import httpx

from services.demo.shop import Shop
from tests.faults.crew import Crew, Death
from tests.servers import free_ports

SERVICES = ("orders", "stock", "payments", "shipments", "notifications")
TWIN = "-twin"
READY_S = 60.0

Kind = Literal["local", "embedded"]


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
    port: int = field(default_factory=lambda: free_ports(1)[0])

    def __post_init__(self) -> None:
        self._arms: defaultdict[str, list[str]] = defaultdict(list)   # what the next starts of a process are armed with
        shared = {
            **self.environment,
            "EVENTPLAT_DATA_DIR": str(self.folder / "data"),   # the keys that the gateway signs with stand there
            "EVENTPLAT_GATEWAY_PORT": str(self.port),
        }
        self._crew = Crew(self.folder, self._command, shared)

    @property
    def names(self) -> tuple[str, ...]:
        """The processes that there are."""
        return ("embedded",) if self.kind == "embedded" else ("gateway", *SERVICES)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def deaths(self) -> list[Death]:
        """Every unplanned end of a process so far."""
        return self._crew.deaths

    async def __aenter__(self) -> Stack:
        try:
            for name in self.names:
                await self._crew.start(name)
            await self.ready()
        except BaseException:
            await self._crew.stop_all()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._crew.stop_all()

    def pids(self) -> dict[str, int]:
        """The processes' ids, by name."""
        return self._crew.pids()

    def kill(self, name: str) -> None:
        """SIGKILL; the crew brings it back."""
        self._crew.kill(name)

    async def pause_for(self, name: str, seconds: float) -> None:
        """SIGSTOP: alive, and silent; then it goes on."""
        await self._crew.pause_for(name, seconds)

    async def double(self, name: str) -> None:
        """A second instance of a service, until `halve`."""
        await self._crew.start(f"{name}{TWIN}")
        await self.ready(twice=name)

    async def halve(self, name: str) -> None:
        await self._crew.stop(f"{name}{TWIN}")

    async def arm(self, name: str, *arms: str) -> None:
        """Restart `name` armed with the first failpoints, and its next restarts with the others; after them unarmed."""
        await self._crew.stop(name)
        self._arms[name] = list(arms)
        await self._crew.start(name)
        await self.ready()

    def log(self, name: str) -> str:
        """What a process has written to standard error."""
        return self._crew.log(name)

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

    def _command(self, name: str) -> tuple[Sequence[str], Mapping[str, str]]:
        arm = self._arms[name].pop(0) if self._arms[name] else ""
        verb = {"embedded": ("dev",), "gateway": ("gateway",)}.get(name, ("run", f"services.{name.removesuffix(TWIN)}"))
        return ("-c", "from eventplat.cli.main import main; main()", *verb), {"EVENTPLAT_FAILPOINTS": arm}


def shop_of(stack: Stack, http: httpx.AsyncClient) -> Shop:
    """A careful client of this stack."""
    assert str(http.base_url).startswith(stack.url)
    return Shop(http)
