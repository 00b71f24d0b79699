"""What a process shows to whoever watches it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import pytest

from eventplat.errors import SettingsError
from eventplat.observability.metrics import PUBLISHED
from eventplat.observability.monitor import MonitorApp, monitor
from eventplat.process import Process
from eventplat.service.service import Service
from eventplat.settings import load


def ask(path: str, missing: Mapping[str, Sequence[str]] | None = None, *, method: str = "GET") -> httpx.Response:
    async def one() -> httpx.Response:
        transport = httpx.ASGITransport(MonitorApp(lambda: missing or {}))
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as http:
            return await http.request(method, path)

    return asyncio.run(one())


def test_metrics_are_in_the_text_that_prometheus_reads() -> None:
    PUBLISHED.labels("confirmed").inc(0)

    answer = ask("/metrics")

    assert answer.headers["content-type"].startswith("text/plain")
    assert 'eventplat_messages_published_total{outcome="confirmed"}' in answer.text


def test_a_process_that_misses_nothing_is_ready() -> None:
    answer = ask("/health/ready", {"stock": []})

    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "missing": {}})


def test_one_that_misses_something_says_what_and_is_alive_all_the_same() -> None:
    missing = {"stock": ["no consumer of eventplat.stock.reserve-stock"], "orders": []}

    assert ask("/health/ready", missing).status_code == 503
    assert ask("/health/ready", missing).json()["missing"] == {"stock": missing["stock"]}
    assert ask("/health/live", missing).status_code == 200


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/", 404), ("POST", "/metrics", 405), ("HEAD", "/metrics", 200)])
def test_anything_else_is_told_what_there_is(method: str, path: str, status: int) -> None:
    assert ask(path, method=method).status_code == status


def test_a_taken_port_is_named_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        served = monitor(MonitorApp(dict), host="127.0.0.1", port=taken.getsockname()[1])

        with pytest.raises(SettingsError, match="EVENTPLAT_METRICS_PORT"):
            asyncio.run(served.start())


def test_a_process_serves_them_where_it_is_told_to(tmp_path: Path) -> None:
    async def run() -> tuple[httpx.Response, httpx.Response]:
        process = Process([Service("shop")], gateway=False, settings=load(data_dir=tmp_path, metrics_port=0))
        await process.start()
        try:
            async with httpx.AsyncClient(base_url=process.monitor_url or "") as http:
                return await http.get("/health/ready"), await http.get("/metrics")
        finally:
            await process.stop()

    ready, metrics = asyncio.run(run())

    assert ready.json() == {"status": "ready", "missing": {}}
    assert "eventplat_handling_seconds" in metrics.text
