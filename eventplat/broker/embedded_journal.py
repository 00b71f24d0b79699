"""The journal of the embedded broker: a log on disk of what is delivered from memory.

A SQLite file of its own, written inline on the loop, read only when the broker opens.

Confirmed   a commit with new messages is synced (synchronous=FULL) before anybody hears of it.
Settled     a commit of nothing but acks and hand-outs is written, not synced (NORMAL): the operating system has
            it, so a kill -9 loses none; a power cut may, and then what was acked comes again. Every synced
            commit carries all earlier ones to the disk.
Handed out  each hand-out is counted in the file before the consumer sees it: a message that kills its process
            is counted as often as it kills. Written, not synced, that is lost in 50 us a message at prefetch 1;
            synced it was 1,070.
Alone       an flock on a second file, held while open, that the kernel releases however the process dies.
            SQLite's own locks would go with any other descriptor of the file that this process closes.
Bounded     pages of deleted rows are used again, the write-ahead log starts over at each checkpoint.

Source: SQLite, "Write-Ahead Logging", "PRAGMA synchronous"; group commit: DeWitt et al., SIGMOD 1984.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from eventplat.broker.embedded_queue import Copy, Message
from eventplat.broker.topology import Binding, Exchange, Queue
from eventplat.errors import BrokerUnavailable, EmbeddedBrokerBusy
from eventplat.messages.codec import Properties

BUSY_TIMEOUT_MS = 2_000            # an operator's own sqlite3 may look at the file
CHECKPOINT_PAGES = 1_000           # 4 MB of write-ahead log
LOG_BYTES_MAX = 16 * 1_048_576     # what the log file may keep after a checkpoint
FORMAT = 1

SCHEMA = """
CREATE TABLE IF NOT EXISTS exchange (name TEXT PRIMARY KEY, type TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS queue (name TEXT PRIMARY KEY, type TEXT NOT NULL, single_active INTEGER NOT NULL,
    dead_exchange TEXT, dead_routing_key TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS binding (queue TEXT, exchange TEXT, routing_key TEXT,
    PRIMARY KEY (queue, exchange, routing_key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS message (id INTEGER PRIMARY KEY, queue TEXT NOT NULL, exchange TEXT NOT NULL, routing_key TEXT NOT NULL,
    deliveries INTEGER NOT NULL, expires_us INTEGER, properties TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS checked (one INTEGER PRIMARY KEY, times INTEGER NOT NULL);
"""

Row: TypeAlias = tuple[int, str, str, str, int, int | None, str, bytes]
_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as the journal had it; `id` is its place in the order."""

    id: int
    queue: str
    message: Message
    deliveries: int
    expires_us: int | None


class Journal:
    """The open file. Every method blocks until it is done.

    Raises:
        EmbeddedBrokerBusy: Another process (or another broker of this one) has it open.
        BrokerUnavailable: It cannot be opened or is no journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _lock(path)
        try:
            self._sqlite = _open(path)
        except BaseException:
            os.close(self._lock)
            raise
        self._synchronous: Literal["FULL", "NORMAL"] = "FULL"

    def close(self) -> None:
        """Checkpoint, then release the lock."""
        try:
            self._sqlite.close()
        finally:
            os.close(self._lock)

    def topology(self) -> tuple[list[Exchange], list[Queue]]:
        """What was declared."""
        with self._reading():
            exchanges = [Exchange(name, type_) for name, type_ in self._sqlite.execute("SELECT name, type FROM exchange")]
            bindings: dict[str, list[Binding]] = {}
            for queue, exchange, key in self._sqlite.execute("SELECT queue, exchange, routing_key FROM binding ORDER BY 1, 2, 3"):
                bindings.setdefault(queue, []).append(Binding(exchange, key))
            queues = [
                Queue(name, type_, tuple(bindings.get(name, ())), bool(single), None if dead is None else Binding(dead, dead_key))
                for name, type_, single, dead, dead_key in self._sqlite.execute("SELECT * FROM queue ORDER BY name")
            ]
            return exchanges, queues

    def messages(self) -> Iterator[Stored]:
        """Every unsettled message, in order."""
        with self._reading():
            for id_, queue, exchange, key, deliveries, expires_us, properties, body in self._sqlite.execute(
                "SELECT * FROM message ORDER BY id"
            ):
                message = Message(exchange, key, Properties(*json.loads(properties)), body, is_persistent=True)
                yield Stored(id_, queue, message, deliveries, expires_us)

    def declare(self, exchanges: Iterable[Exchange], queues: Iterable[Queue]) -> None:
        """Keep what is declared; bindings are added to those that are there, less those that are to go.

        Raises:
            BrokerUnavailable: Nothing was kept.
        """
        known = list(queues)
        with self._writing("FULL") as write:
            write("INSERT OR IGNORE INTO exchange VALUES (?, ?)", [(exchange.name, exchange.type) for exchange in exchanges])
            write("INSERT OR IGNORE INTO queue VALUES (?, ?, ?, ?, ?)", [_queue_row(queue) for queue in known])
            bound = [(queue.name, binding.exchange, binding.routing_key) for queue in known for binding in queue.bindings]
            write("INSERT OR IGNORE INTO binding VALUES (?, ?, ?)", bound)
            gone = [(queue.name, binding.exchange, binding.routing_key) for queue in known for binding in queue.unbound]
            write("DELETE FROM binding WHERE queue = ? AND exchange = ? AND routing_key = ?", gone)

    def commit(self, arrived: Sequence[Row], handed_out: Sequence[tuple[int, int]], settled: Sequence[int]) -> None:
        """One transaction for all of it.

        Args:
            arrived: Rows as `row` makes them.
            handed_out: (deliveries, id) of messages that are on disk.
            settled: Ids to forget.

        Raises:
            BrokerUnavailable: Nothing was kept (or, after a failed sync, some of it may be).
        """
        with self._writing("FULL" if arrived else "NORMAL") as write:
            write("INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?)", arrived)
            write("UPDATE message SET deliveries = ? WHERE id = ?", handed_out)
            write("DELETE FROM message WHERE id = ?", [(id_,) for id_ in settled])

    def check(self) -> None:
        """Write and sync one row.

        Raises:
            BrokerUnavailable: The disk does not take writes.
        """
        with self._writing("FULL") as write:
            write("INSERT INTO checked VALUES (1, 1) ON CONFLICT (one) DO UPDATE SET times = times + 1", [()])

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise BrokerUnavailable(f"the journal {self.path} cannot be read: {error}") from error

    @contextmanager
    def _writing(self, synchronous: Literal["FULL", "NORMAL"]) -> Iterator[_Write]:
        sqlite = self._sqlite
        try:
            if synchronous != self._synchronous:
                sqlite.execute(f"PRAGMA synchronous = {synchronous}")
                self._synchronous = synchronous
            sqlite.execute("BEGIN IMMEDIATE")
            try:
                yield _Write(sqlite)
                sqlite.execute("COMMIT")
            except BaseException:
                if sqlite.in_transaction:  # a full disk has rolled back already
                    sqlite.execute("ROLLBACK")
                raise
        except (sqlite3.Error, ValueError, OverflowError) as error:  # the latter two: what a column cannot hold
            raise BrokerUnavailable(f"the journal {self.path} takes no writes: {error}") from error


class _Write:
    """`executemany`, unless there is nothing to do."""

    def __init__(self, sqlite: sqlite3.Connection) -> None:
        self._sqlite = sqlite

    def __call__(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        if rows:
            self._sqlite.executemany(statement, rows)


def row(copy: Copy) -> Row:
    """How `copy` is kept; its message has been encoded."""
    from_, deliveries, expires_us = copy.message, copy.deliveries, copy.expires_us
    return copy.id, copy.queue.name, from_.exchange, from_.routing_key, deliveries, expires_us, from_.encoded, from_.body


def encoded(properties: Properties) -> str:
    """Properties as the journal keeps them: a JSON array in the order of the fields.

    Raises:
        TypeError: A header that JSON cannot carry.
    """
    return _encode([
        properties.message_id, properties.type, properties.correlation_id, properties.reply_to, properties.app_id,
        properties.user_id, properties.timestamp, properties.content_type, properties.expiration, properties.headers,
    ])


def _queue_row(queue: Queue) -> tuple[str, str, bool, str | None, str | None]:
    dead = queue.dead_letter
    to, key = (None, None) if dead is None else (dead.exchange, dead.routing_key)
    return queue.name, queue.type, queue.single_active, to, key


def _lock(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise BrokerUnavailable(f"the journal {path} cannot be opened: {error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(lock, 32, 0).decode(errors="replace").strip()
        os.close(lock)
        raise EmbeddedBrokerBusy(f"process {holder or 'unknown'} has the embedded broker's journal {path} open") from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _open(path: Path) -> sqlite3.Connection:
    sqlite: sqlite3.Connection | None = None
    try:
        path.touch(0o600)  # message bodies: nobody else's business; SQLite gives its log the same mode
        sqlite = sqlite3.connect(path, isolation_level=None)
        sqlite.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")  # first: changing the journal mode needs the lock
        sqlite.execute("PRAGMA journal_mode = WAL")
        sqlite.execute("PRAGMA synchronous = FULL")
        sqlite.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        sqlite.execute(f"PRAGMA journal_size_limit = {LOG_BYTES_MAX}")
        _migrate(sqlite, path)
    except (sqlite3.Error, OSError) as error:
        if sqlite is not None:
            sqlite.close()
        raise BrokerUnavailable(f"the journal {path} cannot be opened: {error}") from error
    except BaseException:
        if sqlite is not None:
            sqlite.close()
        raise
    return sqlite


def _migrate(sqlite: sqlite3.Connection, path: Path) -> None:
    (version,) = sqlite.execute("PRAGMA user_version").fetchone()
    if version not in (0, FORMAT):
        raise BrokerUnavailable(f"the journal {path} has format {version}; this release reads {FORMAT}")
    sqlite.executescript(f"{SCHEMA} PRAGMA user_version = {FORMAT};")
