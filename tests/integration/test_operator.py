"""An operator at work on RabbitMQ and PostgreSQL, by the command line, while two instances of a service run."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from eventplat.cli.main import cli
from eventplat.messages.message import Event, Key
from eventplat.service.client import Client
from tests.servers import fresh_database, rabbitmq_url

WITHIN_S = 60.0
HANDLER = "shop.on-placed"
APP = '''
from pathlib import Path

from eventplat import Context, Event, Key, Retry, Service

shop = Service("shop", retry=Retry(attempts=2, first=0.01))


class Placed(Event):
    order_id: Key[str]
    n: int = 0


@shop.on(Placed, concurrency=1)
async def placed(event: Placed, ctx: Context) -> None:
    if event.n == 0:
        raise ValueError(f"nothing in {event.order_id}")
    with Path("done").open("a") as file:
        file.write(event.order_id + "\\n")
'''


class Placed(Event, name="shop.placed"):
    order_id: Key[str]
    n: int = 0


class Shop:
    """Two instances of the service, each a process with a log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = [folder / f"log{number}" for number in (1, 2)]
        (folder / "app.py").write_text(APP)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._starts = 0

    def start(self) -> None:
        for log in self.logs:
            with log.open("ab") as file:
                command = [str(Path(sys.executable).parent / "eventplat"), "run", "app.py"]
                self._processes.append(subprocess.Popen(command, cwd=self.folder, stdout=file, stderr=file))
        self._starts += 1
        until(lambda: all(log.read_text().count("shop is ready") == self._starts for log in self.logs), "both instances are ready")

    def stop(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(30)
            finally:
                process.kill()
        self._processes.clear()

    def say(self, what: str) -> bool:
        """Whether both instances have said it."""
        return all(what in log.read_text() for log in self.logs)

    def done(self) -> list[str]:
        path = self.folder / "done"
        return sorted(path.read_text().split()) if path.exists() else []


def until(holds: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WITHIN_S
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {WITHIN_S:g} s: {what}"
        os.sched_yield()
    return found


def typed(*words: str) -> Any:
    """What `eventplat words --json` says."""
    said = CliRunner().invoke(cli, [*words, "--json"], catch_exceptions=False)
    assert said.exit_code == 0, said.output
    return json.loads(said.stdout)


def publish(*events: Placed) -> None:
    async def send() -> None:
        async with Client("shop") as client:
            for event in events:
                await client.publish(event)

    asyncio.run(send())


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    settings = {
        "PROFILE": "dev", "BROKER_URL": rabbitmq_url(), "DATABASE_URL": fresh_database(), "DATA_DIR": str(tmp_path / "data"),
        "PREFIX": f"operator{random.randrange(1 << 30)}",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(f"EVENTPLAT_{name}", value)
    monkeypatch.chdir(tmp_path)
    found = Shop(tmp_path)
    found.start()
    yield found
    found.stop()
    sys.modules.pop("app", None)


def test_a_failed_message_is_grouped_edited_replayed_and_done_and_a_pause_reaches_both_instances(shop: Shop) -> None:
    publish(Placed(order_id="a"), Placed(order_id="b"))
    (group,) = until(lambda: [group for group in typed("dlq", "groups") if group["count"] == 2], "two dead letters in one group")
    assert (group["handler"], group["error"]) == (HANDLER, "ValueError")
    assert group["place"].startswith("app.placed:")

    dead = {row["key"]: row["message_id"] for row in typed("dlq", "list", "--place", group["place"])}
    assert [entry["attempt"] for entry in typed("dlq", "show", dead["a"])["history"]] == [1, 2]
    edited = typed("dlq", "edit", dead["a"], "--body", '{"order_id": "a", "n": 5}', "--yes")
    assert '+  "n": 5' in edited["diff"]
    assert typed("dlq", "replay", dead["a"], "--rate", "10")["count"] == 1
    until(lambda: shop.done() == ["a"], "the edited message is done")
    assert typed("dlq", "discard", dead["b"], "--yes")["count"] == 1

    assert typed("handlers", "pause", HANDLER, "--reason", "the bank is down")[0]["changed"]
    until(lambda: shop.say(f"{HANDLER} is paused"), "both instances pause")
    publish(*(Placed(order_id=f"p{n}", n=1) for n in range(4)))
    (state,) = until(lambda: [each for each in typed("handlers", "list") if each["queued"] == 4], "four messages wait in the queue")
    assert (state["handler"], state["paused"]["reason"], state["dead"]) == (HANDLER, "the bank is down", 0)
    shop.stop()
    shop.start()  # both begin with the pause
    assert [each["queued"] for each in typed("handlers", "list")] == [4]
    assert shop.done() == ["a"]

    typed("handlers", "resume", HANDLER)
    until(lambda: shop.done() == ["a", "p0", "p1", "p2", "p3"], "what waited is done")
