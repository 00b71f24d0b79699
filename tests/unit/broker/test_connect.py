"""Connect: a URL decides the transport, and one that names none says what to write."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from eventplat.broker.connect import open_transport
from eventplat.broker.embedded import EmbeddedTransport
from eventplat.broker.rabbitmq import RabbitTransport
from eventplat.broker.topology import Names, Topology
from eventplat.clock import SystemClock
from eventplat.errors import SettingsError
from eventplat.settings import load

_ONE_ALONE = """
import sys
from eventplat.broker.connect import open_transport
from eventplat.clock import SystemClock
open_transport({url!r}, name="t", clock=SystemClock())
assert {wanted!r} in sys.modules and {other!r} not in sys.modules
"""


@pytest.mark.parametrize("url", ["amqp://broker/", "amqps://broker/", "AMQP://broker/", "amqp://one/, amqp://two/", "amqp://one/,amqps://two/"])
def test_amqp_is_rabbitmq(url: str) -> None:
    assert isinstance(open_transport(url, name="t", clock=SystemClock()), RabbitTransport)


@pytest.mark.parametrize("url", ["embedded://", "embedded:///data/broker.db"])
def test_embedded_is_this_process(url: str) -> None:
    assert isinstance(open_transport(url, name="t", clock=SystemClock()), EmbeddedTransport)


@pytest.mark.parametrize("url", ["", "broker", "broker:5672", "http://broker/", "redis://broker/", "/broker.db", "shop:hunter2@broker"])
def test_another_url_is_refused_with_what_to_write_and_without_its_secret(url: str) -> None:
    with pytest.raises(SettingsError, match="use amqp://, amqps:// or embedded://") as raised:
        open_transport(url, name="t", clock=SystemClock())
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("url", ["embedded://data/broker.db", "embedded://broker.db", "embedded://./broker.db"])
def test_a_relative_path_would_be_another_file_and_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="no absolute path"):
        open_transport(url, name="t", clock=SystemClock())


@pytest.mark.parametrize("folder", ["a b", "50%41", "a#b", "a?b", "größe"])
def test_the_journal_stands_in_the_folder_that_the_settings_name(folder: str, tmp_path: Path) -> None:
    settings = load(data_dir=tmp_path / folder, broker_url=None)
    (tmp_path / folder).mkdir()

    async def run() -> None:
        transport = open_transport(settings.broker(), name="t", clock=SystemClock())
        await transport.open()
        await transport.declare(Topology(Names().exchanges()))
        await transport.close()

    asyncio.run(run())
    assert (tmp_path / folder / "broker.db").exists()
    assert [path.name for path in tmp_path.iterdir()] == [folder]


@pytest.mark.parametrize(("url", "wanted", "other"), [("amqp://b/", "pika", "kombu"), ("embedded://", "kombu", "pika")])
def test_a_process_loads_the_library_of_its_own_broker_only(url: str, wanted: str, other: str) -> None:
    code = _ONE_ALONE.format(url=url, wanted=wanted, other=other)

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 0, ended.stderr
