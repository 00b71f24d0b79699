"""kill -9 against the embedded broker: what was promised is there again.

A victim process publishes numbers to one queue and consumes them, and writes down what it does, each line before
(`P`ublish, `R`eceived, `A`ck) or after (`C`onfirmed) the fact. Whatever moment it dies at:

    confirmed and not acked     comes again, once, in order
    received before             comes again as redelivered
    acked                       may come again, until a publish that began later is confirmed; then never
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from eventplat.broker.embedded import EmbeddedTransport
from eventplat.broker.topology import Binding, Exchange, Queue, Topology
from eventplat.broker.transport import Confirmed, Delivery, Outgoing
from eventplat.clock import SystemClock
from eventplat.errors import EmbeddedBrokerBusy
from eventplat.messages.codec import Properties

EXCHANGE = Exchange("x", "topic")
DEAD = Queue("dead", bindings=(Binding("x", "dead"),))
QUEUE = Queue("q", bindings=(Binding("x", "n.#"),), dead_letter=Binding("x", "dead"))
TOPOLOGY = Topology((EXCHANGE,), (QUEUE, DEAD))
PATIENCE_S = 20


@dataclass
class Ledger:
    """What victims wrote down."""

    published: set[int] = field(default_factory=set)
    confirmed: set[int] = field(default_factory=set)
    received: set[int] = field(default_factory=set)
    acked: set[int] = field(default_factory=set)
    forgotten: set[int] = field(default_factory=set)     # acked before a publish that was confirmed
    again: set[int] = field(default_factory=set)         # received although forgotten
    is_in_order: bool = True

    def enter(self, lines: list[str]) -> None:
        """One victim's lines."""
        acked_before: dict[int, set[int]] = {}
        acked: set[int] = set()
        last = -1
        for line in lines:
            kind, number = line[0], int(line[2:])
            if kind == "P":
                self.published.add(number)
                acked_before[number] = set(acked)
            elif kind == "C":
                self.confirmed.add(number)
                self.forgotten |= acked_before[number]
            elif kind == "R":
                self.again |= {number} & self.forgotten
                self.is_in_order &= number > last
                last = number
                self.received.add(number)
            else:
                acked.add(number)
        self.acked |= acked


@pytest.mark.parametrize("hit", [1, 2, 3, 10, 40])
@pytest.mark.parametrize("point", ["embedded.before_journal", "embedded.after_journal"])
def test_a_kill_around_the_commit_loses_nothing_that_was_confirmed(tmp_path: Path, point: str, hit: int) -> None:
    ledger = Ledger()
    lines, errors = run_victim(tmp_path / "b.db", "work", 0, failpoints=f"{point}=kill@{hit}")

    assert f"failpoint {point} kill hit {hit}" in errors
    ledger.enter(lines)
    check(ledger, drain(tmp_path / "b.db"))


def test_kills_at_random_moments_lose_nothing_that_was_confirmed(tmp_path: Path) -> None:
    chance, ledger = random.Random(4), Ledger()
    for turn in range(6):
        lines, _ = run_victim(tmp_path / "b.db", "work", turn * 1_000_000, die_after=chance.randrange(20, 4_000))
        ledger.enter(lines)

    assert len(ledger.acked) > 100
    check(ledger, drain(tmp_path / "b.db"))


def check(ledger: Ledger, left: list[Delivery]) -> None:
    numbers = [int(delivery.body) for delivery in left]
    assert numbers == sorted(set(numbers))
    assert ledger.confirmed - ledger.acked <= set(numbers) <= ledger.published
    assert not ledger.forgotten & set(numbers)
    assert not ledger.again
    assert ledger.is_in_order
    assert {int(delivery.body) for delivery in left if delivery.redelivered} >= ledger.received & set(numbers)


def test_a_message_that_kills_its_process_is_counted_each_time(tmp_path: Path) -> None:
    counts = []
    for turn in range(5):
        lines, _ = run_victim(tmp_path / "b.db", "poison", turn)
        counts += [int(line[2:]) for line in lines]

    assert counts == [0, 1, 2, 3, 4]


def test_a_message_that_kills_its_process_too_often_is_dead_lettered(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    run_victim(path, "poison", 0)
    with sqlite3.connect(path) as journal:
        journal.execute("UPDATE message SET deliveries = 50")
    journal.close()
    lines, _ = run_victim(path, "poison", 1)
    assert lines == ["K 50"]  # the 51st hand-out is the last

    assert drain(path) == []
    assert [(delivery.body, delivery.delivery_count) for delivery in drain(path, DEAD)] == [(b"poison", 0)]


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    async def both() -> None:
        victim = start_victim(tmp_path / "b.db", "idle", 0)
        assert victim.stdout is not None
        victim.stdout.readline()
        transport = EmbeddedTransport(tmp_path / "b.db", clock=SystemClock())
        with pytest.raises(EmbeddedBrokerBusy, match=f"process {victim.pid} has"):
            await transport.open()
        refused = transport.state

        victim.kill()
        victim.communicate(timeout=PATIENCE_S)
        await transport.open()
        assert (refused, transport.state) == ("disconnected", "connected")
        await transport.close()

    asyncio.run(both())


def drain(path: Path, queue: Queue = QUEUE) -> list[Delivery]:
    """Everything that is left in `queue`, acked."""

    async def run() -> list[Delivery]:
        transport = EmbeddedTransport(path, clock=SystemClock())
        await transport.open()
        await transport.declare(TOPOLOGY)
        left: list[Delivery] = []
        complete = asyncio.Event()
        depth = await transport.depth(queue.name)

        def receive(delivery: Delivery) -> None:
            left.append(delivery)
            delivery.ack()
            if len(left) == depth:
                complete.set()

        await transport.consume(queue, receive, prefetch=65_535)
        if depth:
            await asyncio.wait_for(complete.wait(), PATIENCE_S)
        await transport.close()
        return left

    return asyncio.run(run())


# --- the victim ---------------------------------------------------------------------------------------------------


def start_victim(path: Path, role: str, first: int, *, failpoints: str = "") -> subprocess.Popen[str]:
    environment = {**os.environ, "EVENTPLAT_FAILPOINTS": failpoints}
    command = [sys.executable, __file__, str(path), role, str(first)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_victim(path: Path, role: str, first: int, *, failpoints: str = "", die_after: int | None = None) -> tuple[list[str], str]:
    """What a victim wrote until it was killed: by itself, or after `die_after` lines by us."""
    victim = start_victim(path, role, first, failpoints=failpoints)
    assert victim.stdout is not None
    assert victim.stderr is not None
    begun = ""
    if die_after is not None:
        begun = "".join(victim.stdout.readline() for _ in range(die_after))
        victim.kill()
    whole = begun + victim.stdout.read()  # not `communicate`: it would not see what `readline` has buffered
    errors = victim.stderr.read()
    assert victim.wait(PATIENCE_S) == -signal.SIGKILL, errors
    victim.stdout.close()
    victim.stderr.close()
    return whole[: whole.rfind("\n") + 1].splitlines(), errors


def note(kind: str, numbers: range) -> None:
    os.write(1, "".join(f"{kind} {number}\n" for number in numbers).encode())


def outgoing(body: bytes) -> Outgoing:
    return Outgoing("x", "n.1", Properties(message_id="m", headers={"key": "k"}), body)


async def victim(path: Path, role: str, first: int) -> None:
    """Work until killed."""
    publisher, consumer = (EmbeddedTransport(path, clock=SystemClock(), name=name) for name in ("publisher", "consumer"))
    await publisher.open()
    await consumer.open()
    await publisher.declare(TOPOLOGY)
    if role == "idle":
        note("I", range(1))
        await asyncio.Event().wait()

    def die(delivery: Delivery) -> None:
        note("K", range(delivery.delivery_count, delivery.delivery_count + 1))
        os.kill(os.getpid(), signal.SIGKILL)

    def work(delivery: Delivery) -> None:
        number = int(delivery.body)
        note("R", range(number, number + 1))
        note("A", range(number, number + 1))
        delivery.ack()

    await consumer.consume(QUEUE, die if role == "poison" else work, prefetch=7)
    if role == "poison":
        if first == 0:
            await publisher.publish([outgoing(b"poison")])
        await asyncio.Event().wait()
    await publish_for_ever(publisher, first)


async def publish_for_ever(publisher: EmbeddedTransport, number: int) -> None:
    """Batches of 1 to 20, so that the consumer is now behind and now not."""
    chance = random.Random(number)
    while True:
        batch = range(number, number + chance.randrange(1, 21))
        number = batch.stop
        note("P", batch)
        outcomes = await publisher.publish([outgoing(str(each).encode()) for each in batch])
        if not all(isinstance(outcome, Confirmed) for outcome in outcomes):
            raise AssertionError(outcomes)
        note("C", batch)


if __name__ == "__main__":
    asyncio.run(victim(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
