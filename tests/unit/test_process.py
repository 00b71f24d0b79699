"""A process: starts bottom up, and ends whole whatever fails."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from eventplat import process as processes
from eventplat.broker.embedded import EmbeddedTransport
from eventplat.clock import Clock
from eventplat.errors import BrokerUnavailable, SettingsError
from eventplat.process import Process, apply_topology
from eventplat.service.service import Service
from eventplat.settings import load


class Watched(EmbeddedTransport):
    """Tells when it opens and closes."""

    def __init__(self, name: str, clock: Clock, told: list[str], fails: set[str]) -> None:
        super().__init__(None, clock=clock, name=name)
        self.name, self._told, self._fails = name, told, fails

    async def open(self) -> None:
        self._do("open")
        await super().open()

    async def close(self) -> None:
        self._do("close")
        await super().close()

    def _do(self, what: str) -> None:
        self._told.append(f"{what} {self.name}")
        if f"{what} {self.name}" in self._fails:
            raise BrokerUnavailable(f"cannot {what} {self.name}")


def told_by(monkeypatch: pytest.MonkeyPatch, *fails: str) -> list[str]:
    told: list[str] = []

    def opened(_url: str, *, name: str, clock: Clock) -> Any:
        return Watched(name, clock, told, set(fails))

    monkeypatch.setattr(processes, "open_transport", opened)
    return told


def process_of(folder: Path, *names: str, gateway: bool = False) -> Process:
    return Process([Service(name) for name in names], gateway=gateway, settings=load(data_dir=folder / "data", gateway_port=0))


def test_services_start_in_order_the_gateway_last_and_stop_the_other_way_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = told_by(monkeypatch)

    async def run() -> None:
        process = process_of(tmp_path, "a", "b", gateway=True)
        await process.start()
        assert process.url.startswith("http://127.0.0.1:")
        await process.stop()

    asyncio.run(run())
    assert told == ["open a", "open b", "open gateway", "close gateway", "close b", "close a"]


def test_a_service_that_cannot_start_stops_those_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = told_by(monkeypatch, "open b")

    with pytest.raises(BrokerUnavailable, match="cannot open b"):
        asyncio.run(process_of(tmp_path, "a", "b").start())
    assert told == ["open a", "open b", "close a"]


def test_a_link_that_cannot_close_keeps_no_other_from_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told = told_by(monkeypatch, "close b")

    async def run() -> None:
        process = process_of(tmp_path, "a", "b")
        await process.start()
        await process.stop()
        assert process.runners == []

    asyncio.run(run())
    assert told == ["open a", "open b", "close b", "close a"]
    assert "cannot close b" in caplog.text


def test_a_start_that_failed_is_told_also_where_the_stop_fails_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told_by(monkeypatch, "open b", "close a")

    with pytest.raises(BrokerUnavailable, match="cannot open b"):
        asyncio.run(process_of(tmp_path, "a", "b").start())


def test_a_process_without_a_gateway_has_no_url(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no gateway"):
        _ = process_of(tmp_path, "a").url


def test_a_process_that_never_started_can_be_stopped(tmp_path: Path) -> None:
    asyncio.run(process_of(tmp_path, "a").stop())


def test_a_dry_run_opens_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = told_by(monkeypatch)

    wanted = asyncio.run(apply_topology([Service("a"), Service("b")], load(data_dir=tmp_path), dry_run=True))

    assert told == []
    assert [queue.name for queue in wanted.queues] == [
        "eventplat.a.dead", "eventplat.a.operation", "eventplat.b.dead", "eventplat.b.operation",
    ]  # fmt: skip


def test_the_link_is_closed_also_where_declaring_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = told_by(monkeypatch)

    async def fails(*_: object) -> None:
        raise BrokerUnavailable("away")

    monkeypatch.setattr(Watched, "declare", fails)

    with pytest.raises(BrokerUnavailable):
        asyncio.run(apply_topology([Service("a")], load(data_dir=tmp_path)))
    assert told == ["open topology", "close topology"]
