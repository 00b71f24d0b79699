"""Who shares which embedded broker, and for how long."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from eventplat.broker.embedded import EmbeddedTransport
from eventplat.broker.embedded_broker import EmbeddedBroker, shared
from eventplat.broker.topology import Binding, Exchange, Queue, Topology
from eventplat.broker.transport import Outgoing
from eventplat.clock import SystemClock
from eventplat.errors import BrokerUnavailable, EmbeddedBrokerBusy
from eventplat.messages.codec import Properties

CLOCK = SystemClock()
TOPOLOGY = Topology((Exchange("x", "topic"),), (Queue("q", bindings=(Binding("x", "#"),)),))


async def opened(where: Path | EmbeddedBroker | None, *, declare: bool = False) -> EmbeddedTransport:
    transport = EmbeddedTransport(where, clock=CLOCK)
    await transport.open()
    if declare:
        await transport.declare(TOPOLOGY)
        await transport.publish([Outgoing("x", "k", Properties(), b"1")])
    return transport


def test_transports_with_one_path_however_written_share_one_broker(tmp_path: Path) -> None:
    async def run() -> int | None:
        (tmp_path / "sub").mkdir()
        first = await opened(tmp_path / "b.db", declare=True)
        second = await opened(tmp_path / "sub" / ".." / "b.db")
        await first.close()  # the second keeps it open
        depth = await second.depth("q")
        await second.close()
        return depth

    assert asyncio.run(run()) == 1


def test_transports_with_other_paths_share_nothing(tmp_path: Path) -> None:
    async def run() -> int | None:
        first, second = await opened(tmp_path / "a.db", declare=True), await opened(tmp_path / "b.db")
        depth = await second.depth("q")
        await first.close()
        await second.close()
        return depth

    assert asyncio.run(run()) is None


def test_the_broker_in_memory_is_empty_again_after_the_last_close() -> None:
    async def run() -> tuple[int | None, int | None]:
        first, second = await opened(None, declare=True), await opened(None)
        while_open = await second.depth("q")
        await first.close()
        await second.close()
        third = await opened(None)
        afterwards = await third.depth("q")
        await third.close()
        return while_open, afterwards

    assert asyncio.run(run()) == (1, None)


def test_a_broker_in_memory_that_somebody_holds_keeps_what_it_has() -> None:
    broker = EmbeddedBroker(None, clock=CLOCK)

    async def leave_one() -> None:
        await (await opened(broker, declare=True)).close()

    async def count() -> int | None:
        transport = await opened(broker)
        await transport.publish([Outgoing("x", "k", Properties(), b"2")])
        depth = await transport.depth("q")
        await transport.close()
        return depth

    asyncio.run(leave_one())
    assert asyncio.run(count()) == 2


def test_what_a_loop_left_open_is_opened_again_from_the_journal(tmp_path: Path) -> None:
    async def leave_open() -> None:
        await opened(tmp_path / "b.db", declare=True)

    async def count() -> int | None:
        transport = await opened(tmp_path / "b.db")
        depth = await transport.depth("q")
        await transport.close()
        return depth

    asyncio.run(leave_open())
    assert asyncio.run(count()) == 1


def test_a_second_broker_on_an_open_journal_is_busy(tmp_path: Path) -> None:
    async def run() -> None:
        first = await opened(tmp_path / "b.db")
        with pytest.raises(EmbeddedBrokerBusy):
            await opened(EmbeddedBroker(tmp_path / "b.db", clock=CLOCK))
        await first.close()
        second = await opened(EmbeddedBroker(tmp_path / "b.db", clock=CLOCK))
        await second.close()

    asyncio.run(run())


def test_a_journal_that_cannot_be_opened_is_unavailable_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    async def run() -> None:
        transport = EmbeddedTransport(tmp_path / "file" / "b.db", clock=CLOCK)
        with pytest.raises(BrokerUnavailable, match="cannot be opened"):
            await transport.open()
        assert transport.state == "disconnected"

    asyncio.run(run())
    with pytest.raises(BrokerUnavailable, match="closed"):
        _ = shared(tmp_path / "file" / "b.db", clock=CLOCK).turns
