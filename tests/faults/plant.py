"""Plant: producers and consumers of readings as processes, and the tally of what they did. Campaigns let faults at it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.crew import Crew
from tests.faults.readings import HANDLERS
from tests.faults.tally import Tally
from tests.servers import PostgresServer

PRODUCERS, INSTANCES = ("producer-1", "producer-2"), ("ledger-1", "ledger-2")
RELAY = "relay"                    # of the producers' service: sends what the dead have left
STILL_S = 90.0                     # without any progress: nothing more will come
POLL_S = 0.2


@dataclass
class Plant:
    """Two producers and two instances of the ledger, in a database of their own.

    Args:
        broker_url: Of the broker, as the processes reach it: through a proxy perhaps, or several.
        rate: Events a second of both producers, where nothing holds them up.
        database_port: Where the processes reach PostgreSQL: the server's own, or a proxy's.
    """

    folder: Path
    server: PostgresServer
    broker_url: str
    rate: float
    database_port: int = 0
    restart_s: float = 0.5
    prefix: str = field(default_factory=lambda: f"m{time.time_ns() % 10**9}")

    def __post_init__(self) -> None:
        database = f"messages_{time.time_ns()}"
        url = self.server.create_database(database)
        self.tally = Tally(self.server, database)
        environment = {
            "EVENTPLAT_PROFILE": "dev", "EVENTPLAT_LOG_LEVEL": "warning", "EVENTPLAT_PREFIX": self.prefix,
            "EVENTPLAT_DATA_DIR": str(self.folder), "EVENTPLAT_BROKER_URL": self.broker_url,
            "EVENTPLAT_DATABASE_URL": url.replace(f":{self.server.port}/", f":{self.database_port or self.server.port}/"),
        }  # fmt: skip
        self.crew = Crew(self.folder, self._command, environment, self.restart_s)

    async def __aenter__(self) -> Plant:
        """Consumers first: what nobody has subscribed to is nobody's."""
        try:
            for name in INSTANCES:
                await self.crew.start(name)
            while not await self.tally.is_subscribed():
                await asyncio.sleep(POLL_S)
            for name in PRODUCERS:
                await self.crew.start(name)
            while not await self.tally.committed():
                await asyncio.sleep(POLL_S)
        except BaseException:
            await self.crew.stop_all()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.crew.stop_all()

    @property
    def queues(self) -> tuple[str, ...]:
        """What the names of the handlers' queues begin with: an ordered one may have several."""
        return tuple(f"{self.prefix}.ledger.{name}" for name in HANDLERS)

    def unplanned(self) -> list[str]:
        """Who ended in another way than by SIGKILL, and its last words."""
        return [f"{death.name} ended with {death.code}:\n{self.crew.log(death.name)[-1_500:]}"
                for death in self.crew.deaths if death.code != -9][:3]  # fmt: skip

    async def settle(self, say: Callable[[str], None] = lambda _: None) -> None:
        """No new events; wait until nothing is left to do, or nothing happens any more. What is left is the audit's to name."""
        await self.crew.stop(*PRODUCERS)
        await self.crew.start(RELAY)
        moved, before = time.monotonic(), ""
        while time.monotonic() - moved < STILL_S:
            left = await self.tally.left()
            if not any(left.values()):
                return
            if (now := str(left)) != before:
                moved, before = time.monotonic(), now
                say(f"left: {now}")
            await asyncio.sleep(0.5)

    def _command(self, name: str) -> tuple[Sequence[str], Mapping[str, str]]:
        if name in INSTANCES:
            return ("-c", "from eventplat.cli.main import main; main()", "run", "tests.faults.readings"), {}
        own = 0.0 if name == RELAY else self.rate / len(PRODUCERS)
        return ("-m", "tests.faults.producer", "--name", name, "--rate", str(own)), {}
