"""A new folder in `services/`: a handler and a route. Started, it is in the gateway's /docs and answers; nothing else is edited."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.shops import opened
from tests.servers import free_ports

ROOT = Path(__file__).parents[2]
FOUND_S = 5.0
ROUTE = "/customers/{customer}/points"
START_S = 60.0       # for a whole shop in one process, on a machine that does other things too
SERVICE = '''
from eventplat import Command, Context, Service

loyalty = Service("loyalty")


class GivePoints(Command[int]):
    """Give points to a customer."""

    customer: str
    points: int


@loyalty.handles(GivePoints, http="POST /customers/{customer}/points")
async def give(command: GivePoints, ctx: Context) -> int:
    """Give points for loyalty."""
    return command.points * 2
'''


def test_a_new_folder_beside_a_running_shop_is_in_the_docs_within_5_s_of_its_start(tmp_path: Path) -> None:
    async def join() -> None:
        async with opened("local", tmp_path / "shop") as open_:
            project = _project(tmp_path / "project")
            assert ROUTE not in await _documented(open_.http)
            environment = {
                **open_.stack.environment, "EVENTPLAT_DATA_DIR": str(tmp_path / "shop" / "data"), "EVENTPLAT_LOG_LEVEL": "info",
            }  # fmt: skip

            async with _process(project, environment, "run", "services.loyalty") as output:
                await _said(output, "loyalty is ready")  # until here Python loads, as slowly as the machine is busy
                operation = await _in_the_docs(open_.http, FOUND_S)

                await _is_served(open_.http, operation)
                assert (await open_.http.get("/stocktake")).status_code == 200, "the others go on"

    asyncio.run(join())


def test_a_new_folder_is_in_the_docs_of_eventplat_dev(tmp_path: Path) -> None:
    async def start() -> None:
        project, port = _project(tmp_path / "project"), free_ports(1)[0]
        async with (
            _process(project, {}, "dev", "--port", str(port)) as output,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http,
        ):
            await _said(output, f"http://127.0.0.1:{port}/docs")
            await _said(output, "gateway: ")

            documented = await _documented(http)

            assert ROUTE in documented, "the first request finds it"
            await _is_served(http, documented[ROUTE]["post"])
            assert (await http.get("/stocktake")).status_code == 200, "the others are there too"

    asyncio.run(start())


def _project(folder: Path) -> Path:
    """A project with the shop's services, to which somebody has added a folder."""
    for name in ("services", "migrations"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    new = folder / "services" / "loyalty"
    new.mkdir()
    (new / "__init__.py").touch()
    (new / "service.py").write_text(SERVICE)
    return folder


@dataclass
class Output:
    """What a process has printed so far."""

    text: str = ""
    has_ended: bool = False


@asynccontextmanager
async def _process(project: Path, environment: dict[str, str], *command: str) -> AsyncIterator[Output]:
    """`eventplat COMMAND` in the project; it ends in order when told to."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("EVENTPLAT_", "PYTHONPATH"))}
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "eventplat"), *command, cwd=project, env=inherited | environment,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output = Output()
    reader = asyncio.create_task(_read(process, output))
    try:
        yield output
    finally:
        process.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(process.wait(), 30)
        await reader
        assert code == 0, output.text
        assert "Traceback" not in output.text


async def _read(process: asyncio.subprocess.Process, output: Output) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        output.text += line.decode(errors="replace")
    output.has_ended = True


async def _said(output: Output, text: str) -> None:
    async with asyncio.timeout(START_S):
        while text not in output.text:
            assert not output.has_ended, output.text
            await asyncio.sleep(0.01)


async def _documented(http: httpx.AsyncClient) -> dict[str, Any]:
    """The paths of the document that the page at /docs reads."""
    page = await http.get("/docs")
    assert page.status_code == 200
    assert "/openapi.json" in page.text
    return dict((await http.get("/openapi.json")).json()["paths"])


async def _in_the_docs(http: httpx.AsyncClient, within_s: float) -> dict[str, Any]:
    async with asyncio.timeout(within_s):
        while ROUTE not in (paths := await _documented(http)):
            await asyncio.sleep(0.05)
    return dict(paths[ROUTE]["post"])


async def _is_served(http: httpx.AsyncClient, operation: dict[str, Any]) -> None:
    """As documented, and by the handler."""
    assert (operation["tags"], operation["summary"]) == (["loyalty"], "Give points for loyalty.")
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    assert (body["properties"]["points"]["type"], body["required"]) == ("integer", ["points"])
    answer = await http.post("/customers/c-1/points", json={"points": 21})
    assert (answer.status_code, answer.json()) == (200, 42)
    assert (await http.post("/customers/c-1/points", json={"points": "many"})).status_code == 422
