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
from eventplat.testing.virtual_clock import VirtualClock

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


def test_a_held_broker_keeps_dead_letters_that_were_noticed_while_it_closed() -> None:
    clock = VirtualClock()
    broker = EmbeddedBroker(None, clock=clock)
    dead = Queue("dead", bindings=(Binding("x", "dead"),))
    topology = Topology((Exchange("x", "topic"),), (Queue("q", bindings=(Binding("x", "q"),), dead_letter=Binding("x", "dead")), dead))

    async def leave_expired() -> None:
        transport = EmbeddedTransport(broker, clock=clock)
        await transport.open()
        await transport.declare(topology)
        await transport.publish([Outgoing("x", "q", Properties(expiration="5"), b"1")])
        await transport.consume(topology.queues[0], lambda _: None, prefetch=1)
        await asyncio.sleep(0)
        await clock.advance(1)  # it expires while it is unsettled
        await transport.close()

    async def depths() -> list[int | None]:
        transport = EmbeddedTransport(broker, clock=clock)
        await transport.open()
        found = [await transport.depth(name) for name in ("q", "dead")]
        await transport.close()
        return found

    asyncio.run(leave_expired())
    assert asyncio.run(depths()) == [0, 1]


def test_a_held_broker_keeps_dead_letters_that_have_nowhere_to_go() -> None:
    broker = EmbeddedBroker(None, clock=CLOCK)
    queue = Queue("q", bindings=(Binding("x", "q"),), dead_letter=Binding("x", "dead"))
    dead = Queue("dead", bindings=(Binding("x", "dead"),))

    async def strand() -> None:
        transport = await opened(broker)
        await transport.declare(Topology((Exchange("x", "topic"),), (queue,)))
        await transport.publish([Outgoing("x", "q", Properties(), b"1")])
        await transport.consume(queue, lambda delivery: delivery.dead_letter(), prefetch=1)
        await asyncio.sleep(0)
        await transport.close()

    async def depths() -> list[int | None]:
        transport = await opened(broker)
        await transport.declare(Topology((), (dead,)))
        await asyncio.sleep(0)
        found = [await transport.depth(name) for name in ("q", "dead")]
        await transport.close()
        return found

    asyncio.run(strand())
    assert asyncio.run(depths()) == [1, 0]  # where it stood, as after a reload from a journal


def test_a_second_loop_is_refused_while_the_first_has_it_open(tmp_path: Path) -> None:
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    transport = first.run_until_complete(opened(tmp_path / "b.db", declare=True))
    try:
        with pytest.raises(EmbeddedBrokerBusy, match="another loop"):
            second.run_until_complete(opened(tmp_path / "b.db"))
        assert first.run_until_complete(transport.depth("q")) == 1
    finally:
        first.run_until_complete(transport.close())
        first.close()
    reopened = second.run_until_complete(opened(tmp_path / "b.db"))
    assert second.run_until_complete(reopened.depth("q")) == 1
    second.run_until_complete(reopened.close())
    second.close()


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
