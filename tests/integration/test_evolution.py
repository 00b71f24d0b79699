"""Two releases of one service at once, each in a process of its own: the old one is killed, nothing is lost, nothing comes twice."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import text

from eventplat.messages.message import Command, Key
from eventplat.storage.database import Database
from tests.conformance import stage as stages
from tests.conformance.stage import Stage, until

COMMON = """
from sqlalchemy import Column, Integer, MetaData, Table, Text, insert
from eventplat import Command, Context, Event, Key, Service

tables = MetaData()
handled = Table("handled", tables, Column("id", Integer, primary_key=True), Column("n", Integer), Column("said", Text))
shop = Service("shop", tables=tables)

class Place(Command[None], name="shop.place"):
    order_id: Key[str]
    n: int

class Placed(Event, name="shop.placed"):
    order_id: Key[str]
    n: int
"""

OLD = """
@shop.handles(Place)
async def place(command: Place, ctx: Context) -> None:
    ctx.publish(Placed(order_id=command.order_id, n=command.n))

@shop.on(Placed)
async def record(event: Placed, ctx: Context) -> None:
    await ctx.db.execute(insert(handled).values(n=event.n, said="old"))
"""

NEW = """
class PlacedV2(Event, name="shop.placed", version=2):
    order_id: Key[str]
    n: int
    currency: str
    noted: bool = True

@PlacedV2.upcasts(Placed)
def in_pounds(old: Placed) -> PlacedV2:
    return PlacedV2(order_id=old.order_id, n=old.n, currency="GBP")

@shop.handles(Place)
async def place(command: Place, ctx: Context) -> None:
    ctx.publish(PlacedV2(order_id=command.order_id, n=command.n, currency="EUR"))

@shop.on(PlacedV2, name="record", formerly="on-placed")
async def record(event: PlacedV2, ctx: Context) -> None:
    await ctx.db.execute(insert(handled).values(n=event.n, said=event.currency))
"""


class Place(Command[None], name="shop.place"):
    order_id: Key[str]
    n: int
    since: str = "a field that no release knows"


class Releases:
    """Both releases' code in files, and the processes that run them."""

    def __init__(self, stage: Stage, folder: Path, broker_url: str, database_url: str) -> None:
        self._folder, self.running = folder, list[subprocess.Popen[bytes]]()
        own = {name: value for name, value in os.environ.items() if not name.startswith("EVENTPLAT_")}
        self._environment = own | {
            "EVENTPLAT_PROFILE": "dev", "EVENTPLAT_BROKER_URL": broker_url, "EVENTPLAT_DATABASE_URL": database_url,
            "EVENTPLAT_PREFIX": stage.settings.prefix, "EVENTPLAT_DATA_DIR": str(folder), "EVENTPLAT_HEARTBEAT_S": "0.2",
            "EVENTPLAT_PROCESS_TERM_S": "1.5",
        }  # fmt: skip

    async def start(self, name: str, code: str) -> subprocess.Popen[bytes]:
        """Run a release until it says that it is ready."""
        process = self._launch(name, code)

        def is_ready() -> bool:
            said = (self._folder / f"{name}.log").read_text()
            assert process.poll() is None, said
            return "is ready" in said

        await until(is_ready, f"the start of the {name} release")
        return process

    def _launch(self, name: str, code: str) -> subprocess.Popen[bytes]:
        (self._folder / f"{name}.py").write_text(COMMON + code)
        command = [str(Path(sys.executable).parent / "eventplat"), "run", f"{name}.py"]
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=self._folder, env=self._environment, stdout=log, stderr=log)
        self.running.append(process)
        return process

    def end(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()


def test_a_release_with_new_names_and_versions_takes_over_from_the_old_one_that_is_killed(
    tmp_path: Path, amqp_url: str, fresh_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "WITHIN_S", 60.0)  # processes start slowly on a busy machine

    async def test() -> None:
        prefix = f"test-{uuid.uuid4().hex[:12]}"
        async with Stage(tmp_path, fresh_postgres_url, broker_url=amqp_url, prefix=prefix) as stage:
            database = Database(stage.settings.database("shop"), service="shop", clock=stage.clock, pool_size=2)
            releases = Releases(stage, tmp_path, amqp_url, fresh_postgres_url)
            try:
                await take_over(stage, releases, database)
            finally:
                releases.end()
                await database.close()

    asyncio.run(test())


async def take_over(stage: Stage, releases: Releases, database: Database) -> None:
    old = await releases.start("old", OLD)
    await place(stage, range(20))
    await until(lambda: handled(database))
    await releases.start("new", NEW)
    await place(stage, range(20, 120))
    await until(lambda: say(database, "EUR"), "something by the new release")
    os.kill(old.pid, signal.SIGKILL)
    await place(stage, range(120, 140))

    async def is_over() -> bool:
        return not await rows(database, "SELECT 1 FROM eventplat_outbox UNION ALL SELECT 1 FROM eventplat_pending") and len(
            set(await handled(database))
        ) == 140  # fmt: skip

    await until(is_over, "140 orders, and nothing waiting")
    assert Counter(await handled(database)) == Counter(range(140))
    assert {said for (said,) in await rows(database, "SELECT DISTINCT said FROM handled")} == {"old", "GBP", "EUR"}


async def place(stage: Stage, numbers: range) -> None:
    commands = [Place(order_id=str(n), n=n) for n in numbers]
    await stage.send(*[(command, stage.envelope(command, reply_to=None)) for command in commands])


async def handled(database: Database) -> list[int]:
    return [int(str(n)) for (n,) in await rows(database, "SELECT n FROM handled")]


async def say(database: Database, said: str) -> bool:
    return (said,) in await rows(database, "SELECT DISTINCT said FROM handled")


async def rows(database: Database, statement: str) -> list[tuple[object, ...]]:
    async with database.transaction(read_only=True) as connection:
        return [tuple(row) for row in await connection.execute(text(statement))]
