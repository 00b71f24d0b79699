"""The journal: what is written is read again; alone, bounded, honest about failing."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventplat.broker.embedded_journal import Journal, encoded, row
from eventplat.broker.embedded_queue import Copy, Message, QueueState
from eventplat.broker.topology import Binding, Exchange, Queue
from eventplat.errors import BrokerUnavailable, EmbeddedBrokerBusy
from eventplat.messages.codec import Properties

PROPERTIES = Properties("id", "t.v1", "c", "r", "a", "u", 1_700_000_000, "application/json", "60000", {"seq": 2**62, "key": "ключ"})
QUEUES = [
    Queue("q", bindings=(Binding("x", "a.#"), Binding("x", "b")), single_active=True, dead_letter=Binding("x", "dead")),
    Queue("r", "classic"),
]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "b.db")
    yield journal
    journal.close()


def copy(number: int, body: bytes = b"body", queue: str = "q") -> Copy:
    message = Message("x", "a.b", PROPERTIES, body, is_persistent=True)
    message.encoded = encoded(PROPERTIES)
    return Copy(number, QueueState(Queue(queue), is_journaled=True), message, expires_us=123)


def fill(journal: Journal, numbers: range, body: bytes = b"body") -> None:
    journal.commit([row(copy(number, body)) for number in numbers], [], [])


def ids(journal: Journal) -> list[int]:
    return [stored.id for stored in journal.messages()]


def test_topology_is_read_as_it_was_declared(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "b.db")
    journal.declare([Exchange("x", "topic"), Exchange("f", "fanout")], QUEUES)
    journal.declare([Exchange("x", "topic")], [Queue("r", "classic", (Binding("f", ""),))])
    journal.close()

    journal = Journal(tmp_path / "b.db")
    exchanges, queues = journal.topology()
    journal.close()

    assert exchanges == [Exchange("f", "fanout"), Exchange("x", "topic")]
    assert queues == [QUEUES[0], Queue("r", "classic", (Binding("f", ""),))]


def test_messages_are_read_as_they_were_in_order_without_the_settled_ones(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "b.db")
    fill(journal, range(1, 6), b"\x00\xff")
    journal.commit([], [(3, 2)], [1, 4])
    journal.close()

    journal = Journal(tmp_path / "b.db")
    stored = list(journal.messages())
    journal.close()

    assert [(one.id, one.deliveries) for one in stored] == [(2, 3), (3, 0), (5, 0)]
    message = stored[0].message
    assert (message.exchange, message.routing_key, message.body, message.properties) == ("x", "a.b", b"\x00\xff", PROPERTIES)
    assert (stored[0].queue, stored[0].expires_us) == ("q", 123)


def test_arrivals_are_synced_and_settlements_only_written(journal: Journal) -> None:
    def synchronous() -> int:
        (level,) = journal._sqlite.execute("PRAGMA synchronous").fetchone()
        return int(level)

    fill(journal, range(1, 3))
    assert synchronous() == 2  # FULL
    journal.commit([], [(1, 2)], [1])
    assert synchronous() == 1  # NORMAL
    fill(journal, range(3, 4))
    assert synchronous() == 2
    assert journal._sqlite.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_second_broker_is_refused_and_told_who_has_it(journal: Journal) -> None:
    with pytest.raises(EmbeddedBrokerBusy, match=f"process {os.getpid()} has"):
        Journal(journal.path)


def test_it_can_be_opened_again_after_it_was_closed_or_could_not_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    path.write_bytes(b"this is no database, and it is long enough to tell" * 20)
    with pytest.raises(BrokerUnavailable, match="file is not a database"):
        Journal(path)

    path.unlink()
    Journal(path).close()
    Journal(path).close()


def test_a_journal_of_another_release_is_left_alone(tmp_path: Path) -> None:
    Journal(tmp_path / "b.db").close()
    with sqlite3.connect(tmp_path / "b.db") as other:
        other.execute("PRAGMA user_version = 99")
    other.close()

    with pytest.raises(BrokerUnavailable, match="format 99"):
        Journal(tmp_path / "b.db")


def test_a_failed_commit_keeps_nothing_and_the_next_one_works(journal: Journal) -> None:
    fill(journal, range(1, 3))

    with pytest.raises(BrokerUnavailable, match="takes no writes"):
        journal.commit([row(copy(3)), row(copy(1))], [], [2])

    assert ids(journal) == [1, 2]
    fill(journal, range(3, 4))
    assert ids(journal) == [1, 2, 3]


def test_a_full_disk_is_broker_unavailable(journal: Journal) -> None:
    fill(journal, range(1, 2))
    (pages,) = journal._sqlite.execute("PRAGMA page_count").fetchone()
    journal._sqlite.execute(f"PRAGMA max_page_count = {pages}")

    with pytest.raises(BrokerUnavailable, match="full"):
        fill(journal, range(2, 200), b"x" * 4_096)

    journal._sqlite.execute("PRAGMA max_page_count = 1000000")
    journal.check()
    assert ids(journal) == [1]


def test_what_a_column_cannot_hold_is_refused(journal: Journal) -> None:
    with pytest.raises(BrokerUnavailable):
        journal.commit([row(copy(1, queue="\ud800"))], [], [])
    assert ids(journal) == []


def test_pages_of_settled_messages_are_used_again(journal: Journal) -> None:
    def cycle(first: int) -> int:
        fill(journal, range(first, first + 500), b"x" * 1_000)
        journal.commit([], [], list(range(first, first + 500)))
        return int(journal._sqlite.execute("PRAGMA page_count").fetchone()[0])

    once = cycle(1)
    assert max(cycle(first) for first in range(1_000, 21_000, 1_000)) <= once + 2
    log = Path(f"{journal.path}-wal")
    assert log.stat().st_size < 8 * 1_048_576


def test_nobody_else_may_read_the_messages(journal: Journal) -> None:
    fill(journal, range(1, 2))
    for name in ("", "-wal", ".lock"):
        assert stat.S_IMODE(Path(f"{journal.path}{name}").stat().st_mode) & 0o077 == 0


def test_a_header_that_json_cannot_carry_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        encoded(Properties(headers={"bytes": b""}))
