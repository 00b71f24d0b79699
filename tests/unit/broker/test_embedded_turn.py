"""The turn: one commit for everything, nothing seen before it, nothing lost when it fails."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from eventplat import failpoints
from eventplat.broker.embedded import EmbeddedTransport
from eventplat.broker.embedded_alarm import RETRY_S
from eventplat.broker.embedded_broker import EmbeddedBroker
from eventplat.broker.embedded_journal import Journal, Row
from eventplat.broker.topology import Binding, Exchange, Queue, Topology
from eventplat.broker.transport import Confirmed, Delivery, Nacked, Outgoing
from eventplat.errors import BrokerUnavailable
from eventplat.messages.codec import Properties
from eventplat.testing.virtual_clock import VirtualClock

QUEUE = Queue("q", bindings=(Binding("x", "q"), Binding("x", "all")), dead_letter=Binding("x", "dead"))
OTHER = Queue("other", bindings=(Binding("x", "all"),))
DEAD = Queue("dead", bindings=(Binding("x", "dead"),))
REPLIES = Queue("replies", "exclusive", bindings=(Binding("x", "reply"),))
TOPOLOGY = Topology((Exchange("x", "topic"),), (QUEUE, OTHER, DEAD))


class Disk:
    """The commits of a journal as they happen, and a switch that fills it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commits: list[tuple[list[tuple[int, str, int]], list[tuple[int, int]], list[int]]] = []
        self.is_full = False
        commit, check, disk = Journal.commit, Journal.check, self

        def watched(journal: Journal, arrived: Sequence[Row], counted: Sequence[tuple[int, int]], settled: Sequence[int]) -> None:
            disk.refuse()
            disk.commits.append(([(row[0], row[1], row[4]) for row in arrived], list(counted), sorted(settled)))
            commit(journal, arrived, counted, settled)

        def checked(journal: Journal) -> None:
            disk.refuse()
            check(journal)

        monkeypatch.setattr(Journal, "commit", watched)
        monkeypatch.setattr(Journal, "check", checked)

    def refuse(self) -> None:
        if self.is_full:
            raise BrokerUnavailable("disk full")


class Bench:
    def __init__(self, path: Path, disk: Disk) -> None:
        self.clock, self.disk = VirtualClock(), disk
        self.broker = EmbeddedBroker(path, clock=self.clock)
        self.transport = EmbeddedTransport(self.broker, clock=self.clock)

    async def again(self) -> None:
        """Closed and loaded from its journal."""
        await self.transport.close()
        await self.transport.open()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    yield Bench(tmp_path / "b.db", Disk(monkeypatch))
    failpoints.arm("")


def on_loop(test: Callable[[Bench], Awaitable[None]]) -> Callable[[Bench], None]:
    async def run(bench: Bench) -> None:
        await bench.transport.open()
        await bench.transport.declare(TOPOLOGY)
        try:
            await test(bench)
        finally:
            bench.disk.is_full = False
            await bench.transport.close()

    @functools.wraps(test)
    def wrapper(bench: Bench) -> None:
        asyncio.run(run(bench))

    return wrapper


def out(body: bytes = b"", key: str = "q", *, persistent: bool = True) -> Outgoing:
    return Outgoing("x", key, Properties(), body, persistent=persistent)


async def turn(times: int = 3) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


@on_loop
async def test_everything_of_one_loop_turn_is_one_commit(bench: Bench) -> None:
    await asyncio.gather(*(bench.transport.publish([out(), out()]) for _ in range(10)))

    (commit,) = bench.disk.commits
    assert len(commit[0]) == 20


@on_loop
async def test_a_message_that_is_consumed_at_once_is_written_once_already_counted(bench: Bench) -> None:
    await bench.transport.consume(QUEUE, lambda _: None, prefetch=1)

    await bench.transport.publish([out(), out()])

    assert bench.disk.commits == [([(1, "q", 1), (2, "q", 0)], [], [])]


@on_loop
async def test_a_hand_out_is_counted_on_disk_before_the_consumer_sees_it(bench: Bench) -> None:
    await bench.transport.publish([out(), out()])
    seen: list[int] = []

    def receive(delivery: Delivery) -> None:
        seen.append(len(bench.disk.commits))
        delivery.ack()

    await bench.transport.consume(QUEUE, receive, prefetch=1)
    await turn(5)

    assert [commit[1:] for commit in bench.disk.commits[1:]] == [([(1, 1)], []), ([(1, 2)], [1]), ([], [2])]
    assert seen == [2, 3]


@on_loop
async def test_transient_messages_and_exclusive_queues_never_touch_the_disk(bench: Bench) -> None:
    got: list[Delivery] = []
    await bench.transport.consume(REPLIES, got.append, prefetch=1)
    await bench.transport.consume(QUEUE, got.append, prefetch=1)

    await bench.transport.publish([out(key="reply"), out(persistent=False)])
    got[1].ack()
    await turn()

    assert len(got) == 2
    assert bench.disk.commits == []


@on_loop
async def test_a_full_disk_refuses_publishes_and_hands_out_nothing_of_them(bench: Bench) -> None:
    got: list[Delivery] = []
    await bench.transport.publish([out(b"before")])
    bench.disk.is_full = True
    await bench.transport.consume(QUEUE, got.append, prefetch=10)

    with pytest.raises(BrokerUnavailable, match="disk full"):
        await bench.transport.publish([out(b"lost")])

    assert [each.body for each in got] == [b"before"]  # consuming goes on
    assert bench.transport.state == "blocked"
    assert await bench.transport.depth("q") == 0
    assert await bench.transport.publish([out(b"memory", persistent=False)]) == [Confirmed()]

    bench.disk.is_full = False
    assert await bench.transport.publish([out(b"after")]) == [Confirmed()]
    assert [each.body for each in got] == [b"before", b"memory", b"after"]


@on_loop
async def test_the_prefetch_that_a_refused_publish_took_is_free_again(bench: Bench) -> None:
    got: list[Delivery] = []
    await bench.transport.consume(QUEUE, got.append, prefetch=1)
    bench.disk.is_full = True
    with pytest.raises(BrokerUnavailable):
        await bench.transport.publish([out(b"lost")])
    bench.disk.is_full = False

    await bench.transport.publish([out(b"kept")])

    assert [each.body for each in got] == [b"kept"]


@on_loop
async def test_the_alarm_ends_by_itself_when_the_disk_takes_writes_again(bench: Bench) -> None:
    bench.disk.is_full = True
    with pytest.raises(BrokerUnavailable):
        await bench.transport.publish([out()])
    await turn()
    await bench.clock.advance(RETRY_S)
    still = bench.transport.state

    bench.disk.is_full = False
    await bench.clock.advance(RETRY_S)

    assert (still, bench.transport.state) == ("blocked", "connected")


@on_loop
async def test_acks_on_a_full_disk_are_written_when_it_has_room(bench: Bench) -> None:
    got: list[Delivery] = []
    await bench.transport.consume(QUEUE, got.append, prefetch=2)
    await bench.transport.publish([out(b"1"), out(b"2")])
    bench.disk.is_full = True
    got[0].ack()
    await turn()
    bench.disk.is_full = False
    await bench.clock.advance(RETRY_S)
    await turn()

    assert bench.disk.commits[-1] == ([], [], [1])


@on_loop
async def test_a_dead_letter_moves_in_one_commit(bench: Bench) -> None:
    got: list[Delivery] = []
    await bench.transport.consume(QUEUE, got.append, prefetch=1)
    await bench.transport.publish([out(b"bad")])

    got[0].dead_letter()
    await turn()

    assert bench.disk.commits[1:] == [([(2, "dead", 0)], [], [1])]


@on_loop
async def test_a_dead_letter_on_a_full_disk_stands_in_one_of_both_queues(bench: Bench) -> None:
    got: list[Delivery] = []
    await bench.transport.consume(QUEUE, got.append, prefetch=1)
    await bench.transport.publish([out(b"bad")])
    bench.disk.is_full = True
    got[0].dead_letter()
    await turn()
    assert await bench.transport.depth("dead") == 0

    bench.disk.is_full = False
    await bench.clock.advance(RETRY_S)
    await turn()
    assert await bench.transport.depth("dead") == 1
    assert bench.disk.commits[1:] == [([(2, "dead", 0)], [], [1])]

    await bench.again()
    assert (await bench.transport.depth("q"), await bench.transport.depth("dead")) == (0, 1)


@on_loop
async def test_a_fault_before_the_commit_keeps_nothing(bench: Bench) -> None:
    failpoints.arm("embedded.before_journal=raise")
    with pytest.raises(BrokerUnavailable, match="failpoint"):
        await bench.transport.publish([out(key="all")])

    await bench.again()
    assert (await bench.transport.depth("q"), await bench.transport.depth("other")) == (0, 0)


@on_loop
async def test_a_fault_after_the_commit_keeps_the_message_and_not_the_confirm(bench: Bench) -> None:
    failpoints.arm("embedded.after_journal=raise")
    with pytest.raises(BrokerUnavailable, match="failpoint"):
        await bench.transport.publish([out(key="all")])

    assert await bench.transport.depth("q") == 1
    await bench.again()
    assert (await bench.transport.depth("q"), await bench.transport.depth("other")) == (1, 1)


@on_loop
async def test_a_header_that_cannot_be_kept_fails_its_own_message_only(bench: Bench) -> None:
    bad = Outgoing("x", "q", Properties(headers={"bytes": b""}), b"")
    first, second = await asyncio.gather(bench.transport.publish([out(), bad]), bench.transport.publish([out()]))

    assert [type(outcome) for outcome in first] == [Confirmed, Nacked]
    assert second == [Confirmed()]
    assert await bench.transport.depth("q") == 2


@on_loop
async def test_a_publish_that_nobody_settles_in_time_is_unavailable(bench: Bench) -> None:
    with pytest.raises(BrokerUnavailable, match="not settled within 0 s"):
        await bench.transport.publish([out()], timeout_s=0)
