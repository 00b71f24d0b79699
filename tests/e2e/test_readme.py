"""README's first service, run as it stands: the code block, the command below it, the request, and what comes back."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner
from pydantic import BaseModel
from sqlalchemy import text

from eventplat import Context, Event, Key, Properties, Service
from eventplat.broker.topology import Queue, Topology
from eventplat.broker.transport import Delivery, Outgoing
from eventplat.cli.main import cli
from eventplat.settings import Settings
from eventplat.testing import Harness
from tests.servers import free_ports

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_first_service_runs_as_readme_says(tmp_path: Path) -> None:
    block = re.search(r"<!-- run: (.+?) -->\n```python\n(.+?)```", README, re.DOTALL)
    assert block is not None
    (tmp_path / "app.py").write_text(block[2])
    console = README[block.end() :]
    sent = re.search(r"\$ (curl .+)\n(.+)\n", console)
    assert sent is not None

    answers = asyncio.run(_run(shlex.split(block[1]), tmp_path, _headers(sent[1]), _body(sent[1])))

    assert answers[0].text == sent[2]
    assert answers[1].content == answers[0].content, "the same key is answered again, byte for byte"
    assert answers[2].status_code == 422, "the same key with another body is refused"
    assert answers[3].json()["reason"] == "too_many"
    assert "/orders" in answers[4].json()["paths"]


def test_what_readme_says_for_when_a_handler_fails_mends_a_shop_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = re.search(r"<!-- run: (.+?) -->\n```python\n(.+?)```", README, re.DOTALL)
    typed = re.search(r"<!-- operator -->\n```console\n(.+?)```", README, re.DOTALL)
    assert block is not None
    assert typed is not None
    (tmp_path / "app.py").write_text(_failing(block[2]))
    commands = [shlex.split(line.removeprefix("$ "), comments=True) for line in typed[1].splitlines()]

    monkeypatch.chdir(tmp_path)
    said = asyncio.run(_mend(shlex.split(block[1]), tmp_path, commands))
    sys.modules.pop("app", None)

    assert "ValueError" in said["dlq groups"]
    assert "app.thank:" in said["dlq groups"]
    assert "Traceback" in said["dlq show"]
    assert '+  "quantity": 3' in said["dlq edit"]
    assert "1 messages replayed" in said["dlq replay"]
    assert "1 messages discarded" in said["dlq discard"]
    assert "0 messages replayed" in said["dlq replay --error"]
    assert "the bank is down" in said["handlers list"]
    assert said["handlers resume"] == "shop.on-order-placed resumed\n"
    assert (tmp_path / "thanked").read_text() == "o-1 3\n"


def test_names_and_versions_change_as_readme_says() -> None:
    said = _declared("evolution")
    old, new = said["OrderPlaced"], said["OrderPlacedV2"]

    async def test() -> None:
        async with Harness(said["shop"]) as harness:
            await harness.publish(old(order_id="a", pence=5))
            await harness.publish(new(order_id="b", pence=6, currency="EUR"))
            await harness.quiet()
            assert harness.dead_letters == []
            (row,) = await _rows(harness, "SELECT consumer, count(*) FROM eventplat_inbox GROUP BY 1")
            assert row == ("shop.on-order-placed", 2)

    asyncio.run(test())
    assert said["in_pounds"](old(order_id="a", pence=5)) == new(order_id="a", pence=5, currency="GBP")


def test_queues_of_other_systems_are_read_and_written_as_readme_says() -> None:
    said = _declared("foreign")

    async def test() -> None:
        async with Harness(said["shop"]) as harness:
            transport = harness._process.runners[0]._transport
            await transport.declare(Topology(queues=(Queue("legacy.done", "classic"),)))
            body = b'{"number": 7, "sku": "a"}'
            await transport.publish([Outgoing("", "legacy.orders", Properties(), body)] * 2)
            await harness.quiet()
            assert harness.dead_letters == []
            done: list[Delivery] = []
            await transport.consume(Queue("legacy.done", "classic"), done.append, prefetch=10)
            await harness.quiet()
            assert [(delivery.body, delivery.properties.headers) for delivery in done] == [(b"7", {"sku": "a"})]

    asyncio.run(test())


def _declared(block: str) -> dict[str, Any]:
    """What README's block of this name declares, on a service `shop`."""
    found = re.search(rf"<!-- test: {block} -->\n```python\n(.+?)```", README, re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {"__name__": "readme", "shop": Service("shop")}
    names |= {"BaseModel": BaseModel, "Context": Context, "Event": Event, "Key": Key}
    exec(compile(found[1], "README.md", "exec", dont_inherit=True), names)  # without this file's postponed annotations
    return names


async def _rows(harness: Harness, statement: str) -> list[tuple[Any, ...]]:
    async with harness._process.runners[0].out.database.transaction(read_only=True) as connection:
        return [tuple(row) for row in await connection.execute(text(statement))]


def test_every_command_that_readme_names_is_there() -> None:
    named = {line.split("#")[0].strip() for line in re.findall(r"(?:^\$ |`)((?:eventplat|make) [a-z][^`\n]*)", README, re.MULTILINE)}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert {"eventplat gateway", "eventplat run services.stock", "eventplat dev app.py", "make demo"} <= named
    for command in sorted(named):
        program, *words = shlex.split(command)
        if program == "make":
            assert set(words) <= targets, command
        else:
            _parse(cli, words)


def test_every_setting_that_readme_names_is_one() -> None:
    table = README[README.index("## Settings") : README.index("## Development")]
    named = {name.lower() for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for name in re.findall(r"`([A-Z_]+)`", row)}
    set_ = {name.lower() for name in re.findall(r"EVENTPLAT_([A-Z_]+)=", README)}

    assert len(named) > 10
    assert named | set_ <= Settings.model_fields.keys()


def test_the_error_that_readme_explains_is_explained() -> None:
    code = re.search(r"`eventplat explain (EP[0-9]+)`", README)
    assert code is not None

    said = CliRunner().invoke(cli, ["explain", code[1]])

    assert said.exit_code == 0
    assert "Send it again after Retry-After seconds" in said.output


def _parse(command: click.Command, words: list[str]) -> None:
    """Whether the command line takes these words; nothing runs."""
    context = click.Context(command)
    if isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, words
        _parse(found, words[1:])
    elif words != ["--orders", "FILE.csv.gz"]:
        command.make_parser(context).parse_args(words)


async def _run(command: list[str], folder: Path, headers: dict[str, str], body: str) -> list[httpx.Response]:
    port = free_ports(1)[0]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EVENTPLAT_")}
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / command[0]), *command[1:], cwd=folder, env={**environment, "EVENTPLAT_GATEWAY_PORT": str(port)},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            await _until_ready(http)
            other = {name: value for name, value in headers.items() if name != "Idempotency-Key"}
            return [
                await http.post("/orders", content=body, headers=headers),
                await http.post("/orders", content=body, headers=headers),
                await http.post("/orders", content=body.replace("3", "4"), headers=headers),
                await http.post("/orders", content=body.replace("3", "300"), headers=other),
                await http.get("/openapi.json"),
            ]
    finally:
        process.send_signal(signal.SIGTERM)
        _, log = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 0, log.decode()


def _failing(app: str) -> str:
    """README's shop, whose thanks fail for a quantity of 13 and are written down."""
    app = app.replace("from eventplat import Command", "from pathlib import Path\n\nfrom eventplat import Retry, Command")
    app = app.replace("ordered=True)", "retry=Retry(attempts=1))")
    fails = """    if event.quantity == 13:
        raise ValueError("bad luck")
    with Path("thanked").open("a") as file:
        file.write(f"{event.order_id} {event.quantity}\\n")
    ctx.log.info("""
    assert app.count("    ctx.log.info(") == 1
    return app.replace("    ctx.log.info(", fails)


async def _mend(run: list[str], folder: Path, commands: list[list[str]]) -> dict[str, str]:
    """What README's commands say, typed while a shop runs in which two messages are dead; by their words before the first value."""
    port, said = free_ports(1)[0], {}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EVENTPLAT_")}
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / run[0]), *run[1:], cwd=folder, env={**environment, "EVENTPLAT_GATEWAY_PORT": str(port)},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            await _until_ready(http)
            for order in ("o-1", "o-2"):
                assert (await http.post("/orders", json={"order_id": order, "quantity": 13})).status_code == 200
        async with asyncio.timeout(30):
            while len(dead := json.loads(await _typed(["dlq", "list", "--json"]))) < 2:
                pass
            ids = {{"o-1": "ID", "o-2": "OTHER-ID"}[row["key"]]: row["message_id"] for row in dead}
            for command in commands:
                words = [ids.get(word, word) for word in command[1:]]
                said[" ".join(command[1:4] if "--error" in command else command[1:3])] = await _typed(words)
            while not (folder / "thanked").exists():
                await asyncio.sleep(0.05)
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 20)
    return said


async def _typed(words: list[str]) -> str:
    """What `eventplat words` says here to somebody who answers every question by yes."""
    runner = CliRunner(env={name: None for name in os.environ if name.startswith("EVENTPLAT_")})
    said = await asyncio.to_thread(runner.invoke, cli, words, input="y\n", catch_exceptions=False)
    assert said.exit_code == 0, (words, said.output)
    return said.stdout


async def _until_ready(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                if "/orders" in (await http.get("/openapi.json")).json()["paths"]:
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.05)


def _headers(curl: str) -> dict[str, str]:
    words = shlex.split(curl)
    return dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")


def _body(curl: str) -> str:
    words = shlex.split(curl)
    return words[words.index("-d") + 1]
