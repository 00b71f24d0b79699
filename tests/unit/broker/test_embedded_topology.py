"""Declaring: all of it or nothing, on disk before in memory, and what differs has a name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from eventplat.broker.embedded import EmbeddedTransport
from eventplat.broker.embedded_broker import EmbeddedBroker
from eventplat.broker.embedded_journal import Journal
from eventplat.broker.topology import Binding, Exchange, Queue, Topology
from eventplat.broker.transport import Confirmed, Outgoing, Returned
from eventplat.errors import BrokerUnavailable, TopologyMismatch, TopologyMissing
from eventplat.messages.codec import Properties
from eventplat.testing.virtual_clock import VirtualClock

EXCHANGE = Exchange("x", "topic")
QUEUE = Queue("q", bindings=(Binding("x", "a"),))
TOPOLOGY = Topology((EXCHANGE,), (QUEUE,))


def on_broker(path: Path | None, *steps: Callable[[EmbeddedTransport], object]) -> None:
    """Run each step, and await what it returns, on one open transport."""

    async def run() -> None:
        clock = VirtualClock()
        transport = EmbeddedTransport(EmbeddedBroker(path, clock=clock), clock=clock)
        await transport.open()
        try:
            for step in steps:
                await step(transport)  # type: ignore[misc]
        finally:
            await transport.close()

    asyncio.run(run())


async def reach(transport: EmbeddedTransport, *keys: str) -> list[bool]:
    outcomes = await transport.publish([Outgoing("x", key, Properties(), b"") for key in keys])
    assert all(isinstance(outcome, Confirmed | Returned) for outcome in outcomes)
    return [isinstance(outcome, Confirmed) for outcome in outcomes]


@pytest.mark.parametrize(("bad", "error"), [
    (Topology((EXCHANGE, Exchange("y", "direct")), (Queue("new"), Queue("q", "classic"))), TopologyMismatch),
    (Topology((Exchange("y", "direct"), Exchange("x", "fanout")), (Queue("new"),)), TopologyMismatch),
    (Topology((Exchange("y", "direct"),), (Queue("new"), Queue("q", single_active=True))), TopologyMismatch),
    (Topology((Exchange("y", "direct"),), (Queue("new"), Queue("z", bindings=(Binding("nowhere", "k"),)))), TopologyMissing),
])
@pytest.mark.parametrize("is_journaled", [False, True], ids=["memory", "journal"])
def test_what_cannot_be_declared_declares_nothing(tmp_path: Path, bad: Topology, error: type[Exception], is_journaled: bool) -> None:
    path = tmp_path / "b.db" if is_journaled else None

    async def check(transport: EmbeddedTransport) -> None:
        await transport.declare(TOPOLOGY)
        with pytest.raises(error):
            await transport.declare(bad)
        assert await transport.depth("new") is None
        with pytest.raises(TopologyMissing, match="'y'"):
            await transport.verify(Topology((Exchange("y", "direct"),)))

    on_broker(path, check)


def test_declaring_again_adds_bindings_and_takes_none_away() -> None:
    async def check(transport: EmbeddedTransport) -> None:
        await transport.declare(TOPOLOGY)
        await transport.declare(Topology((), (Queue("q", bindings=(Binding("x", "b"),)),)))
        assert await reach(transport, "a", "b", "c") == [True, True, False]

    on_broker(None, check)


def test_a_reload_has_every_binding(tmp_path: Path) -> None:
    async def declare(transport: EmbeddedTransport) -> None:
        await transport.declare(TOPOLOGY)
        await transport.declare(Topology((), (Queue("q", bindings=(Binding("x", "b"),)),)))

    async def check(transport: EmbeddedTransport) -> None:
        await transport.verify(TOPOLOGY)
        assert await reach(transport, "a", "b", "c") == [True, True, False]
        with pytest.raises(TopologyMismatch):
            await transport.declare(Topology((), (Queue("q", "classic"),)))

    on_broker(tmp_path / "b.db", declare)
    on_broker(tmp_path / "b.db", check)


def test_what_the_disk_does_not_take_is_not_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise BrokerUnavailable("disk full")

    async def check(transport: EmbeddedTransport) -> None:
        await transport.declare(TOPOLOGY)
        with monkeypatch.context() as full:
            full.setattr(Journal, "declare", refuse)
            await transport.declare(TOPOLOGY)  # nothing new, nothing to write
            with pytest.raises(BrokerUnavailable, match="disk full"):
                await transport.declare(Topology((), (Queue("new", bindings=(Binding("x", "n"),)),)))
        assert await transport.depth("new") is None
        assert await reach(transport, "n") == [False]

    on_broker(tmp_path / "b.db", check)


def test_exclusive_queues_are_left_to_their_consumers() -> None:
    async def check(transport: EmbeddedTransport) -> None:
        mine = Queue("mine", "exclusive", (Binding("x", "m"),))
        await transport.declare(Topology((EXCHANGE,), (mine,)))
        await transport.verify(Topology((EXCHANGE,), (mine,)))
        assert await transport.depth("mine") is None

    on_broker(None, check)


def test_the_first_that_is_missing_is_named() -> None:
    async def check(transport: EmbeddedTransport) -> None:
        await transport.declare(TOPOLOGY)
        with pytest.raises(TopologyMissing, match="'z1'"):
            await transport.verify(Topology((EXCHANGE,), (QUEUE, Queue("z1"), Queue("z2"))))

    on_broker(None, check)
