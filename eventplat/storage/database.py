"""Database: one service's database, its transactions and its clock.

PostgreSQL through asyncpg or a SQLite file inline on the loop: the same SQL, the same endings.

Commit    shielded from cancellation: a transaction whose COMMIT has begun ends by the database's answer. A
          connection lost in that moment raises `CommitUnknown`: nobody may act on either outcome.
Outage    a lost link, a server that shuts down or takes no writes: `DatabaseUnavailable` out of whatever
          statement met it, and the whole pool is replaced, since `SELECT 1` works on a demoted primary.
Idle      a transaction that stands open for longer than the server allows is ended by it, which the driver reports
          like an outage. It is the work's own fault: `IdleTooLong`, told by the time since the last statement.
Swallowed a failed statement aborts a PostgreSQL transaction, and its COMMIT then quietly rolls back. Here
          such a commit raises `TransactionAborted`, on SQLite too; a savepoint confines the failure.
Memory    `sqlite://` is a temporary file without fsync that vanishes at close: private connections and the same
          locking as a real file, where one shared in-memory connection would deadlock on a nested read.

Next: storage.session, storage.migrate
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import copy
from functools import partial
from pathlib import Path
from typing import Literal, cast
from weakref import WeakSet

from sqlalchemy import Connection, event, select
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncTransaction, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from eventplat.clock import Clock
from eventplat.errors import CommitUnknown, DatabaseUnavailable, IdleTooLong, SettingsError, TransactionAborted
from eventplat.settings import without_password
from eventplat.storage import postgres, sqlite
from eventplat.storage.failures import is_driver_outage, is_refused_write, is_transient
from eventplat.storage.tables import now_us

__all__ = ["Database", "is_transient"]

COMMIT_S = 10.0  # a COMMIT without an answer for this long is unknown

logger = logging.getLogger(__name__)


class Database:
    """A pool of connections to the database of one service; belongs to the loop that first uses it."""

    def __init__(
        self, url: str, *, service: str, clock: Clock, pool_size: int = 10, idle_s: float = postgres.IDLE_S, echo: bool = False
    ) -> None:
        """Nothing is opened yet.

        Args:
            url: `postgresql://user:password@host/name` (more hosts as `?host=a:5432&host=b:5432`),
                `sqlite:////absolute/path`, or `sqlite://` for a database that vanishes at close.
            service: Its name; on PostgreSQL also its schema and role.
            clock: SQLite's clock. PostgreSQL has one of its own.
            pool_size: Connections at most, 1..200.
            idle_s: How long PostgreSQL lets an open transaction wait for its next statement: longer than any handler may take.
            echo: Log every statement.

        Raises:
            SettingsError: The URL names no database we speak.
        """
        self.service, self.url = service, without_password(url)
        self._clock, self._idle_s = clock, idle_s
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):
            text = f"the database URL of {service} cannot be read: write postgresql://user:password@host:5432/name or sqlite:////path"
            raise SettingsError(text) from None  # without the URL: what cannot be read may be a secret
        self.dialect: Literal["postgresql", "sqlite"]
        self._engine_of: Callable[..., AsyncEngine]
        if parsed.get_backend_name() == "postgresql":
            self.dialect = "postgresql"
            self._engine_of = partial(postgres.create_engine, parsed, service=service, idle_s=idle_s, echo=echo)
        elif parsed.get_backend_name() == "sqlite":
            self.dialect = "sqlite"
            self._engine_of = self._sqlite_engine_of(parsed, clock, echo)
        else:
            raise SettingsError(f"{self.url} is neither postgresql:// nor sqlite://")
        self._open(pool_size)

    def apart(self, pool_size: int) -> Database:
        """The same database by other connections: what must not wait behind handlers. Close it before this one."""
        twin = copy(self)
        twin._temporary = None  # noqa: SLF001 - the first one removes it
        twin._open(pool_size)  # noqa: SLF001
        return twin

    def _open(self, pool_size: int) -> None:
        self.engine: AsyncEngine = self._engine_of(pool_size=pool_size)
        self._generation = 0
        self._failed: WeakSet[Connection] = WeakSet()      # a statement failed, no savepoint confined it
        self._read_only: WeakSet[Connection] = WeakSet()
        event.listen(self.engine.sync_engine, "connect", self._on_connect, insert=True)
        event.listen(self.engine.sync_engine, "checkout", self._on_checkout)
        event.listen(self.engine.sync_engine, "handle_error", self._on_error)
        event.listen(self.engine.sync_engine, "rollback_savepoint", self._on_savepoint_undone)
        if self.dialect == "postgresql":
            event.listen(self.engine.sync_engine, "begin", self._on_answered)
            event.listen(self.engine.sync_engine, "before_cursor_execute", self._on_ask)
            event.listen(self.engine.sync_engine, "after_cursor_execute", self._on_answered)
            event.listen(self.engine.sync_engine, "commit", self._on_ask)

    @asynccontextmanager
    async def transaction(
        self, *, read_only: bool = False, on_commit: Callable[[], None] | None = None
    ) -> AsyncIterator[AsyncConnection]:
        """BEGIN, the body, COMMIT; ROLLBACK when the body raises or is cancelled.

        Args:
            read_only: One snapshot for all its statements, that refuses writes; on SQLite it waits for no writer.
            on_commit: Called once COMMIT is known to have happened, even when the caller was cancelled
                meanwhile: what must follow a commit belongs here, not behind the `async with`.

        Raises:
            DatabaseUnavailable: Nothing has been committed.
            CommitUnknown: It may or may not have been committed.
            TransactionAborted: A failed statement was swallowed; nothing has been committed.
        """
        async with self._begun(read_only) as (connection, transaction):
            try:
                yield connection
            except BaseException:
                await self._roll_back(connection, transaction)
                raise
            await self._commit(connection, transaction, on_commit or _nothing)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """A connection whose caller begins and ends transactions; what is open at the end is rolled back.

        Raises:
            DatabaseUnavailable: No connection could be had.
        """
        connection = self.engine.connect()
        try:
            await connection.start()
        except Exception as error:
            raise self._unavailable(error) from error
        try:
            yield connection
        finally:
            if self.dialect == "sqlite":
                await connection.close()  # never waits, so it cannot be cancelled half-way
            else:
                await asyncio.shield(asyncio.ensure_future(connection.close()))

    async def ping(self) -> None:
        """Return if the database answers and takes writes.

        Raises:
            DatabaseUnavailable: It does not.
        """
        if self.dialect == "sqlite":
            async with self.transaction(read_only=True) as connection:
                await connection.exec_driver_sql("SELECT 1 FROM sqlite_master")
            return
        async with self.connect() as connection:
            is_read_only = (await connection.exec_driver_sql("SHOW transaction_read_only")).scalar_one() == "on"
        if is_read_only:
            self.renew()
            raise DatabaseUnavailable(f"{self.url} answers, but takes no writes: a standby, or set read-only")

    async def now_us(self, connection: AsyncConnection) -> int:
        """The database's clock in microseconds since 1970."""
        return int((await connection.execute(select(now_us()))).scalar_one())

    def renew(self) -> None:
        """Use no connection again that is open now; those in use end when they are given back."""
        self._generation += 1

    async def close(self) -> None:
        """Close every connection; a `sqlite://` database vanishes."""
        await self.engine.dispose()
        if self._temporary is not None:
            self._temporary.cleanup()

    # --- one transaction --------------------------------------------------------------------------

    @asynccontextmanager
    async def _begun(self, read_only: bool) -> AsyncIterator[tuple[AsyncConnection, AsyncTransaction]]:
        gate = None
        if self.dialect == "sqlite" and not read_only:
            gate = sqlite.gate_of(self._path)
            await gate.acquire()  # before the checkout, so that waiting writers leave the pool to readers
        try:
            async with self.connect() as connection:
                if self.dialect == "sqlite":
                    _inline(connection).prepare(read_only, gate)
                    gate = None
                elif read_only:
                    await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                yield connection, await self._begin(connection, read_only)
        finally:
            if gate is not None:
                gate.release()

    async def _begin(self, connection: AsyncConnection, read_only: bool) -> AsyncTransaction:
        if read_only:
            self._read_only.add(_sync(connection))
        # As a context manager: once it has ended, SQLAlchemy refuses statements instead of beginning another.
        return await connection.begin().start(is_ctxmanager=True)

    async def _commit(
        self, connection: AsyncConnection, transaction: AsyncTransaction, on_commit: Callable[[], None]
    ) -> None:
        if _sync(connection) in self._failed or not transaction.is_active:
            await self._roll_back(connection, transaction)
            raise TransactionAborted("a statement failed in this transaction and its error was swallowed")
        if self.dialect == "sqlite":
            await transaction.commit()  # never waits, so it cannot be cancelled half-way
            on_commit()
            return
        cancelled, commit = None, asyncio.ensure_future(self._commit_remote(transaction))
        while not commit.done():
            try:
                await asyncio.wait([commit])  # a cancellation ends this wait, not the COMMIT
            except asyncio.CancelledError as error:
                cancelled = error
        if commit.exception() is None:
            on_commit()
        if cancelled is not None:
            raise cancelled from commit.exception()
        commit.result()

    async def _commit_remote(self, transaction: AsyncTransaction) -> None:
        try:
            async with asyncio.timeout(COMMIT_S):
                await transaction.commit()
        except (DatabaseUnavailable, OSError) as error:
            raise CommitUnknown(f"{self.url}: the connection was lost during COMMIT ({_reason(error)})") from error

    async def _roll_back(self, connection: AsyncConnection, transaction: AsyncTransaction) -> None:
        try:
            if transaction.is_active and not connection.invalidated:
                await transaction.rollback()
        except Exception as error:
            logger.warning("rollback on %s failed, dropping the connection: %s", self.url, error)
            await connection.invalidate(error)

    # --- errors -----------------------------------------------------------------------------------

    def _on_error(self, context: ExceptionContext) -> BaseException | None:
        """Every error of every statement: an outage becomes `DatabaseUnavailable`, any other spoils the transaction."""
        error, connection = context.original_exception, context.connection
        if not isinstance(error, Exception) or connection is None:
            return None
        refused_write = connection in self._read_only and is_refused_write(error)
        if context.is_disconnect and connection.info.get("idle_s", 0) > self._idle_s:
            context.invalidate_pool_on_disconnect = False
            return IdleTooLong(f"{self.url}: no statement for {connection.info['idle_s']:.0f} s in an open transaction")
        if context.is_disconnect or (is_driver_outage(error) and not refused_write):
            if self.dialect == "postgresql":
                context.is_disconnect = True
                context.invalidate_pool_on_disconnect = True
            return self._unavailable(error)
        if isinstance(error, connection.dialect.loaded_dbapi.Error):
            self._failed.add(connection)
        return None

    def _on_connect(self, _dbapi_connection: object, record: ConnectionPoolEntry) -> None:
        record.info.update(generation=self._generation, is_new=True)

    def _on_checkout(self, _dbapi_connection: object, record: ConnectionPoolEntry, _proxy: object) -> None:
        is_new = record.info.pop("is_new", False)  # made for this very checkout, whose second try is its last
        if not is_new and record.info.get("generation") != self._generation:
            raise DisconnectionError("the connections have been renewed")  # SQLAlchemy's way to say so: it connects anew

    def _on_answered(self, connection: Connection, *_: object) -> None:
        connection.info["answered"] = self._clock.monotonic()

    def _on_ask(self, connection: Connection, *_: object) -> None:
        connection.info["idle_s"] = self._clock.monotonic() - connection.info["answered"]

    def _on_savepoint_undone(self, connection: Connection, _name: str, _context: object) -> None:
        self._failed.discard(connection)

    def _unavailable(self, error: BaseException) -> DatabaseUnavailable:
        return error if isinstance(error, DatabaseUnavailable) else DatabaseUnavailable(f"{self.url}: {_reason(error)}")

    # --- SQLite -----------------------------------------------------------------------------------

    def _sqlite_engine_of(self, url: URL, clock: Clock, echo: bool) -> Callable[..., AsyncEngine]:
        is_memory = url.database in (None, "", ":memory:")
        if is_memory:
            self._temporary = tempfile.TemporaryDirectory(prefix="eventplat-")
            path = Path(self._temporary.name) / f"{self.service}.db"
        else:
            path = Path(str(url.database)).resolve()
            path.parent.mkdir(parents=True, exist_ok=True)
        self._path = str(path)
        return partial(
            create_async_engine, URL.create("sqlite+inline", database=self._path), echo=echo, hide_parameters=True,
            connect_args={"clock": clock, "durable": not is_memory}, max_overflow=0, pool_timeout=postgres.POOL_WAIT_S,
        )  # fmt: skip


def _nothing() -> None:
    """What follows a commit when nobody asked for anything."""


def _sync(connection: AsyncConnection) -> Connection:
    assert connection.sync_connection is not None  # noqa: S101 - started
    return connection.sync_connection


def _inline(connection: AsyncConnection) -> sqlite.InlineConnection:
    return cast("sqlite.InlineConnection", _sync(connection).connection.dbapi_connection)


def _reason(error: BaseException) -> str:
    reason = getattr(error, "orig", None) or error
    return str(reason) or type(reason).__name__
