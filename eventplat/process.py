"""One process: which services, whether a gateway, on which broker.

    run(shop)                       # python app.py: everything in one process, as uvicorn.run
    eventplat run services.stock    # one service on RabbitMQ and PostgreSQL
    eventplat gateway               # the gateway alone

Next: service.runner, gateway.app
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Any

from eventplat.broker.connect import open_transport
from eventplat.broker.topology import Names, Topology
from eventplat.broker.transport import Transport
from eventplat.clock import Clock, SystemClock
from eventplat.errors import SettingsError
from eventplat.lifecycle import spare_the_collector, stop_all, until_signalled
from eventplat.messages.ids import Chance
from eventplat.observability.logs import configure
from eventplat.observability.pulse import Pulse, pulse_path
from eventplat.security.grant import GrantVerifier
from eventplat.security.keys import ensure_keys
from eventplat.service.endpoint import partitions_there, topology
from eventplat.service.runner import Runner
from eventplat.service.service import Service
from eventplat.settings import Settings, load

if TYPE_CHECKING:
    from eventplat.gateway.server import HttpServer
    from eventplat.observability.listener import Listener

logger = logging.getLogger(__name__)


class Process:
    """Services, and perhaps the gateway, of one process.

    Args:
        services: Each runs on a transport of its own.
        gateway: Also serve HTTP.
    """

    def __init__(
        self,
        services: Sequence[Service[Any]],
        *,
        gateway: bool = True,
        settings: Settings | None = None,
        clock: Clock | None = None,
        chance: Chance | None = None,
    ) -> None:
        self.settings = settings or load()
        self._services, self._has_gateway = services, gateway
        self._clock, self._chance = clock or SystemClock(), chance or SystemRandom()
        self.runners: list[Runner] = []
        self.server: HttpServer | None = None
        self._transports: list[Transport] = []
        self._pulses: list[Pulse] = []
        self._monitor: Listener | None = None

    @property
    def url(self) -> str:
        """Where the gateway listens, as "http://127.0.0.1:8000"."""
        if self.server is None:
            raise SettingsError("this process runs no gateway")
        return self.server.url

    async def start(self) -> None:
        """Start services first, the gateway last: its first request finds them."""
        self.settings.data_dir.mkdir(parents=True, exist_ok=True)
        keys = ensure_keys(self.settings)
        verifier = GrantVerifier(keys.grant_public_pem) if keys.grant_public_pem else None
        try:
            for service in self._services:
                others = [other for other in self._services if other is not service]
                transport = await self._open(service.name)
                runner = Runner(
                    service, self.settings, transport, verifier, clock=self._clock, chance=self._chance, beside=others
                )
                self.runners.append(runner)
                await runner.start()
                if not self.settings.is_embedded:
                    await self._feel_pulse(runner)
            if self._has_gateway:
                await self._start_gateway()
            if self.settings.metrics_port is not None:
                await self._start_monitor(self.settings.metrics_port)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop in reverse, each part even if another's stop failed."""
        if self._monitor is not None:
            await stop_all([self._monitor])
        if self.server is not None:
            await stop_all([self.server])
        await stop_all([*self.runners, *self._pulses])
        await stop_all([_Closing(transport) for transport in self._transports])
        self.runners, self._transports, self._pulses, self.server = [], [], [], None

    @property
    def monitor_url(self) -> str | None:
        """Where metrics and health are served; None where nobody asked for it."""
        return None if self._monitor is None else self._monitor.url

    def missing(self) -> dict[str, list[str]]:
        """What keeps each service, and the gateway, from its work; nothing where all is well."""
        found = {runner.service.name: runner.missing() for runner in self.runners}
        if self.server is not None and self._transports[-1].state != "connected":
            found["gateway"] = [f"the link to the broker is {self._transports[-1].state}"]
        return {part: what for part, what in found.items() if what}

    async def _feel_pulse(self, runner: Runner) -> None:
        path = pulse_path(self.settings.data_dir, runner.service.name)
        pulse = Pulse(path, lambda: not runner.missing(), every_s=self.settings.heartbeat_s, clock=self._clock)
        self._pulses.append(pulse)
        await pulse.start()

    async def _start_gateway(self) -> None:
        from eventplat.gateway.app import create_app  # noqa: PLC0415 - a process without HTTP does not load FastAPI
        from eventplat.gateway.server import HttpServer  # noqa: PLC0415

        transport = await self._open("gateway")
        exchanges = Topology(Names(self.settings.prefix).exchanges())
        await (transport.declare(exchanges) if self.settings.declares_at_start else transport.verify(exchanges))
        names = [service.name for service in self._services]
        app = create_app(self.settings, transport=transport, clock=self._clock, chance=self._chance, beside=names)
        self.server = HttpServer(app, host=self.settings.gateway_host, port=self.settings.gateway_port)
        await self.server.start()

    async def _start_monitor(self, port: int) -> None:
        from eventplat.observability.monitor import MonitorApp, monitor  # noqa: PLC0415 - only here does a service load uvicorn

        self._monitor = monitor(MonitorApp(self.missing), host=self.settings.metrics_host, port=port)
        await self._monitor.start()
        logger.info("metrics: %s/metrics", self.monitor_url)

    async def _open(self, name: str) -> Transport:
        transport = open_transport(self.settings.broker(), name=name, clock=self._clock)
        await transport.open()
        self._transports.append(transport)
        return transport


@dataclass(frozen=True)
class _Closing:
    """An open transport as a component."""

    transport: Transport

    async def start(self) -> None:
        """It is open."""

    async def stop(self) -> None:
        await self.transport.close()


def run(*services: Service[Any], gateway: bool = True, settings: Settings | None = None) -> None:
    """Run `services`, and the gateway, in this process until SIGTERM or Ctrl-C."""
    settings = settings or load()
    if settings.migrations_dir is None:
        settings = settings.model_copy(update={"migrations_dir": Path("migrations")})
    configure(settings)
    asyncio.run(_serve(Process(services, gateway=gateway, settings=settings)))


async def _serve(process: Process) -> None:
    await process.start()
    spare_the_collector()
    try:
        if process.server is not None:
            logger.info("gateway: %s  docs: %s/docs", process.url, process.url)
        await until_signalled()
    finally:
        await process.stop()


async def apply_topology(services: Sequence[Service[Any]], settings: Settings, *, dry_run: bool = False) -> Topology:
    """Declare what `services` and the gateway need; returns it. What is there is not asked for in a dry run."""
    names = Names(settings.prefix)
    wanted = Topology(names.exchanges())
    if dry_run:
        for service in services:
            wanted |= topology(service, names)
        return wanted
    transport = open_transport(settings.broker(), name="topology", clock=SystemClock())
    await transport.open()
    try:
        for service in services:
            wanted |= topology(service, names, await partitions_there(transport, service, names))
        await transport.declare(wanted)
    finally:
        await transport.close()
    return wanted
