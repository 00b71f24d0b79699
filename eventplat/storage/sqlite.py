"""SQLite inline: an async dialect that runs sqlite3 on the loop's own thread.

A statement of an embedded service takes microseconds; handing each to a thread and back costs more than the
statement (848 against 289 transactions a second) and makes a simulation irreproducible. So a call
blocks the loop for as long as SQLite works, and never for as long as somebody else holds a lock:

Writing   one writer per file: `BEGIN IMMEDIATE` behind a fair asyncio lock per file. A deferred
          transaction that reads and then writes fails at once with BUSY_SNAPSHOT, whatever busy_timeout says.
Reading   a snapshot of the write-ahead log: waits for nobody, nobody waits for it.
Others    another process with the lock (a command line tool) is met by trying again between loop turns.
Threads   none of ours. Every call goes through `await_only`, so that it runs on the loop even when the caller is
          a `def` handler's worker thread (`storage.session`); sqlite3 itself checks the thread.

Next: storage.database
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import pool
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import URL, AdaptedConnection
from sqlalchemy.util.concurrency import await_only, in_greenlet

from eventplat.clock import Clock

BUSY_WAIT_S = 5.0        # for another process's lock, between loop turns
BUSY_PAUSE_S = 0.01
BUSY_BLOCKING_MS = 20    # what SQLite itself may wait, blocking the loop: recovery and checkpoints are that short

P = ParamSpec("P")
R = TypeVar("R")

_gates: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Lock]] = WeakKeyDictionary()


def gate_of(path: str) -> asyncio.Lock:
    """The write lock of the file `path` among the transactions of the running loop; first come, first served."""
    return _gates.setdefault(asyncio.get_running_loop(), {}).setdefault(path, asyncio.Lock())


async def _here(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    return function(*args, **kwargs)


def _on_loop(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call `function` on the loop's thread; outside a greenlet (garbage collection) right here."""
    if in_greenlet():
        return await_only(_here(function, *args, **kwargs))
    return function(*args, **kwargs)


class InlineCursor:
    """A DBAPI cursor whose rows are read when it executes: nothing later touches SQLite."""

    __slots__ = ("_connection", "_rows", "arraysize", "description", "lastrowid", "rowcount")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._rows: deque[Any] = deque()
        self.arraysize = 1
        self.description: Any = None
        self.lastrowid: int | None = None
        self.rowcount = -1

    def execute(self, operation: str, parameters: Any = ()) -> None:
        _on_loop(self._execute, operation, parameters or ())

    def executemany(self, operation: str, parameters: Sequence[Any]) -> None:
        _on_loop(self._executemany, operation, parameters)

    def _execute(self, operation: str, parameters: Any) -> None:
        self._keep(self._connection.execute(operation, parameters))

    def _executemany(self, operation: str, parameters: Sequence[Any]) -> None:
        self._keep(self._connection.executemany(operation, parameters))

    def _keep(self, cursor: sqlite3.Cursor) -> None:
        self.description = cursor.description
        self._rows = deque(cursor) if cursor.description else deque()
        self.lastrowid, self.rowcount = cursor.lastrowid, cursor.rowcount  # complete once the rows are read
        cursor.close()

    def fetchone(self) -> Any:
        return self._rows.popleft() if self._rows else None

    def fetchmany(self, size: int | None = None) -> list[Any]:
        return [self._rows.popleft() for _ in range(min(size or self.arraysize, len(self._rows)))]

    def fetchall(self) -> list[Any]:
        rows, self._rows = list(self._rows), deque()
        return rows

    def __iter__(self) -> Iterator[Any]:
        while self._rows:
            yield self._rows.popleft()

    async def _async_soft_close(self) -> None:
        """SQLAlchemy's hook for cursors of async drivers: this one was closed when it had executed."""

    def close(self) -> None:
        self._rows.clear()

    def setinputsizes(self, *_sizes: Any) -> None:
        """DBAPI: nothing to prepare."""


class InlineConnection(AdaptedConnection):
    """A DBAPI connection that begins its transactions itself, behind the file's gate."""

    __slots__ = ("_clock", "_gate_path", "_held", "is_read_only")

    def __init__(self, connection: sqlite3.Connection, gate_path: str, clock: Clock) -> None:
        self._connection: Any = connection
        self._gate_path, self._clock = gate_path, clock
        self._held: asyncio.Lock | None = None
        self.is_read_only = False

    isolation_level = None

    def cursor(self, server_side: bool = False) -> InlineCursor:
        return InlineCursor(self._connection)

    def create_function(self, *args: Any, **kwargs: Any) -> None:
        _on_loop(self._connection.create_function, *args, **kwargs)

    def prepare(self, is_read_only: bool, gate: asyncio.Lock | None) -> None:
        """What the next transaction is; it takes over `gate`, already acquired, and releases it at its end."""
        self.is_read_only, self._held = is_read_only, gate

    def begin(self) -> None:
        """BEGIN; a writing transaction waits for its turn first."""
        if self.is_read_only:
            _on_loop(self._begin_reading)
        else:
            await_only(self._begin_writing())

    def commit(self) -> None:
        _on_loop(self._end, "COMMIT")

    def rollback(self) -> None:
        _on_loop(self._end, "ROLLBACK")

    def close(self) -> None:
        """Close; an open transaction is rolled back."""
        _on_loop(self._close)

    def terminate(self) -> None:
        self.close()

    def _begin_reading(self) -> None:
        self._connection.execute("PRAGMA query_only = 1")
        self._connection.execute("BEGIN")

    async def _begin_writing(self) -> None:
        if self._held is None:
            gate = gate_of(self._gate_path)
            await gate.acquire()
            self._held = gate
        try:
            await self._begin_immediate()
        except BaseException:
            self._release()
            raise

    async def _begin_immediate(self) -> None:
        until = self._clock.monotonic() + BUSY_WAIT_S
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or self._clock.monotonic() >= until:
                    raise
                await self._clock.sleep(BUSY_PAUSE_S)
            else:
                return

    def _end(self, how: str) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute(how)
        finally:
            if not self._connection.in_transaction:  # a refused COMMIT leaves it open, for ROLLBACK to end
                if self.is_read_only:
                    self.is_read_only = False
                    self._connection.execute("PRAGMA query_only = 0")
                self._release()

    def _close(self) -> None:
        self._connection.close()
        self._release()

    def _release(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.release()


class SQLiteInline(SQLiteDialect_pysqlite):
    """`sqlite3` behind SQLAlchemy's async engine, without a thread."""

    driver = "inline"
    is_async = True
    has_terminate = True
    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> Any:
        return sqlite3

    @classmethod
    def get_pool_class(cls, url: URL) -> type[pool.Pool]:
        return pool.AsyncAdaptedQueuePool

    def do_begin(self, dbapi_connection: Any) -> None:
        dbapi_connection.dbapi_connection.begin()

    def do_terminate(self, dbapi_connection: Any) -> None:
        dbapi_connection.terminate()

    def connect(self, *cargs: Any, **cparams: Any) -> Any:
        clock, durable = cparams.pop("clock"), cparams.pop("durable")
        return _on_loop(_connect, cargs[0], clock, durable)


def _connect(path: str, clock: Clock, durable: bool) -> InlineConnection:
    connection = sqlite3.connect(path, timeout=2.0, isolation_level=None, cached_statements=512)
    for pragma in _pragmas(durable):
        connection.execute(f"PRAGMA {pragma}")
    connection.create_function("eventplat_now_us", 0, clock.time_us)
    return InlineConnection(connection, path, clock)


def _pragmas(durable: bool) -> Iterable[str]:
    # The connect timeout above is in force while journal_mode waits for a process that switches it too.
    return (
        "journal_mode = WAL",
        f"synchronous = {'FULL' if durable else 'OFF'}",  # NORMAL would lose acknowledged commits on power loss
        "foreign_keys = ON",
        f"busy_timeout = {BUSY_BLOCKING_MS}",
    )


registry.register("sqlite.inline", __name__, "SQLiteInline")
