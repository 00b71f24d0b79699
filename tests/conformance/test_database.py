"""One suite for both databases: what a transaction, a session and a clock promise."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import BigInteger, Column, ForeignKey, MetaData, String, Table, func, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from eventplat.clock import SystemClock
from eventplat.errors import DatabaseUnavailable, IdleTooLong, NotYourTransaction, SchemaOutdated, TransactionAborted
from eventplat.storage.database import Database
from eventplat.storage.failures import is_transient
from eventplat.storage.migrate import check, create_tables, upgrade
from eventplat.storage.postgres import IDLE_S, role_of, schema_of
from eventplat.storage.session import open_session, run_in_thread
from eventplat.storage.tables import UUID, now_us

Test = Callable[[Database], Awaitable[None]]


class Base(DeclarativeBase):
    metadata = MetaData()


class Shelf(Base):
    __tablename__ = "shelf"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    books: Mapped[list[Book]] = relationship(order_by="Book.title")


class Book(Base):
    __tablename__ = "book"
    title: Mapped[str] = mapped_column(String(40), primary_key=True)
    shelf_id: Mapped[int] = mapped_column(ForeignKey("shelf.id"))


counter = Table("counter", Base.metadata, Column("id", UUID, primary_key=True), Column("value", BigInteger, nullable=False))
ID = "01934f1e-7b1a-7000-8000-000000000001"


@pytest.fixture(params=["postgresql", "sqlite", "sqlite-memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "postgresql":
        from tests.servers import postgres_url  # noqa: PLC0415 - starts a server, only when a test needs it

        yield postgres_url()
    else:
        yield f"sqlite:///{tmp_path / 'file.db'}" if request.param == "sqlite" else "sqlite://"


@asynccontextmanager
async def opened(url: str, *, empty: bool = False, pool_size: int = 10, idle_s: float = IDLE_S) -> AsyncIterator[Database]:
    database = Database(url, service=f"shop-{uuid.uuid4().hex[:8]}", clock=SystemClock(), pool_size=pool_size, idle_s=idle_s)
    try:
        if not empty:
            await upgrade(database)
            await create_tables(database, Base.metadata)
        yield database
    finally:
        await dropped(database)


async def dropped(database: Database) -> None:
    if database.dialect == "postgresql":
        async with database.transaction() as connection:
            await connection.execute(text("SET LOCAL ROLE NONE"))
            await connection.execute(text(f'DROP SCHEMA IF EXISTS "{schema_of(database.service)}" CASCADE'))
            await connection.execute(text(f'DROP ROLE IF EXISTS "{role_of(database.service)}"'))
    await database.close()


def run(url: str, test: Test, *, pool_size: int = 10, idle_s: float = IDLE_S) -> None:
    async def main() -> None:
        async with opened(url, pool_size=pool_size, idle_s=idle_s) as database:
            await test(database)

    asyncio.run(main())


async def count(database: Database, table: type[Base] = Shelf) -> int:
    async with database.transaction(read_only=True) as connection:
        return int((await connection.execute(select(func.count()).select_from(table))).scalar_one())


async def claim(database: Database, connection: AsyncConnection, id_: str) -> bool:
    kind = postgresql if database.dialect == "postgresql" else sqlite
    statement = kind.insert(counter).values(id=id_, value=0).on_conflict_do_nothing().returning(counter.c.id)
    return (await connection.execute(statement)).first() is not None


def test_a_transaction_that_ends_is_committed(url: str) -> None:
    async def test(database: Database) -> None:
        called: list[str] = []
        async with database.transaction(on_commit=lambda: called.append("committed")) as connection:
            await connection.execute(insert(Shelf).values(id=1))
            assert called == []
        assert called == ["committed"]
        assert await count(database) == 1

    run(url, test)


def test_a_transaction_that_raises_is_rolled_back(url: str) -> None:
    async def test(database: Database) -> None:
        called: list[str] = []
        with pytest.raises(KeyError):
            async with database.transaction(on_commit=lambda: called.append("committed")) as connection:
                await connection.execute(insert(Shelf).values(id=1))
                raise KeyError
        assert called == []
        assert await count(database) == 0

    run(url, test)


def test_a_transaction_that_is_cancelled_is_rolled_back_and_blocks_nobody(url: str) -> None:
    async def test(database: Database) -> None:
        wrote = asyncio.Event()

        async def work() -> None:
            async with database.transaction() as connection:
                await connection.execute(insert(Shelf).values(id=1))
                wrote.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await wrote.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with database.transaction() as connection:
            await connection.execute(insert(Shelf).values(id=2))
        async with database.transaction(read_only=True) as connection:
            assert (await connection.execute(select(Shelf.id))).scalars().all() == [2]

    run(url, test)


def test_a_waiting_writer_that_is_cancelled_leaves_the_queue(url: str) -> None:
    async def test(database: Database) -> None:
        async def work() -> None:
            async with database.transaction() as connection:
                await connection.execute(update(counter).values(value=1))

        async with database.transaction() as connection:
            await connection.execute(insert(counter).values(id=ID, value=0))
            waiting = asyncio.create_task(work())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await work()

    run(url, test)


def test_of_many_concurrent_claims_one_wins(url: str) -> None:
    async def test(database: Database) -> None:
        async def work() -> bool:
            async with database.transaction() as connection:
                won = await claim(database, connection, ID)
                await asyncio.sleep(0)
                return won

        assert sorted(await asyncio.gather(*[work() for _ in range(20)])) == [False] * 19 + [True]

    run(url, test)


def test_fifty_interleaved_transactions_lose_no_update(url: str) -> None:
    async def test(database: Database) -> None:
        async with database.transaction() as connection:
            await connection.execute(insert(counter).values(id=ID, value=0))

        async def work() -> None:
            async with database.transaction() as connection:
                value = (await connection.execute(select(counter.c.value).where(counter.c.id == ID).with_for_update())).scalar_one()
                await asyncio.sleep(0)  # lets every other transaction in
                await connection.execute(update(counter).where(counter.c.id == ID).values(value=value + 1))

        await asyncio.gather(*[work() for _ in range(50)])
        async with database.transaction(read_only=True) as connection:
            assert (await connection.execute(select(counter.c.id, counter.c.value))).all() == [(ID, 50)]

    run(url, test)


def test_a_read_only_transaction_refuses_writes_and_the_next_one_takes_them(url: str) -> None:
    async def test(database: Database) -> None:
        with pytest.raises(DBAPIError):
            async with database.transaction(read_only=True) as connection:
                await connection.execute(insert(Shelf).values(id=1))
        async with database.transaction() as connection:
            await connection.execute(insert(Shelf).values(id=2))
        assert await count(database) == 1

    run(url, test, pool_size=1)


def test_a_reader_waits_for_no_writer(url: str) -> None:
    async def test(database: Database) -> None:
        async with database.transaction() as connection:
            await connection.execute(insert(Shelf).values(id=1))
            assert await count(database) == 0
        assert await count(database) == 1

    run(url, test)


def test_a_reader_sees_one_snapshot_through_all_its_statements(url: str) -> None:
    async def test(database: Database) -> None:
        async with database.transaction(read_only=True) as reader:
            counts = select(func.count()).select_from(Shelf)
            before = (await reader.execute(counts)).scalar_one()
            async with database.transaction() as writer:
                await writer.execute(insert(Shelf).values(id=1))
            assert (await reader.execute(counts)).scalar_one() == before == 0
        assert await count(database) == 1
        async with database.transaction() as writer:  # on the connection that read
            await writer.execute(insert(Shelf).values(id=2))

    run(url, test)


def test_connections_apart_work_while_all_others_are_taken(url: str) -> None:
    async def test(database: Database) -> None:
        apart = database.apart(1)
        async with database.transaction(read_only=True) as connection:
            await connection.execute(select(func.count()).select_from(Shelf))
            async with apart.transaction() as writer:
                await writer.execute(insert(Shelf).values(id=1))
        await apart.close()
        assert await count(database) == 1

    run(url, test, pool_size=1)


def test_a_transaction_that_stood_open_for_too_long_is_its_own_fault_and_not_an_outage(url: str) -> None:
    async def test(database: Database) -> None:
        if database.dialect == "sqlite":
            return  # waits for nobody but this process
        for ask_again in (True, False):
            with pytest.raises(IdleTooLong) as caught:
                async with database.transaction() as connection:
                    await connection.execute(insert(Shelf).values(id=1))
                    await ended(database, connection)
                    if ask_again:
                        await connection.execute(select(Shelf.id))
            assert not is_transient(caught.value)
        assert await count(database) == 0

    run(url, test, idle_s=0.2)


async def ended(database: Database, connection: AsyncConnection) -> None:
    """Return when the server has ended the connection's session."""
    raw = await connection.get_raw_connection()
    driver = raw.driver_connection
    assert driver is not None
    deadline = time.monotonic() + 10
    while not driver.is_closed():
        assert time.monotonic() < deadline, database.url
        await asyncio.sleep(0.01)


def test_waiting_writers_leave_connections_to_readers(url: str) -> None:
    async def test(database: Database) -> None:
        if database.dialect == "postgresql":
            return  # a PostgreSQL writer waits inside its connection, for a row

        async def work() -> None:
            async with database.transaction() as connection:
                await connection.execute(update(counter).values(value=1))

        async with database.transaction():
            waiting = [asyncio.create_task(work()) for _ in range(5)]
            await asyncio.sleep(0)
            assert await count(database) == 0
        await asyncio.gather(*waiting)

    run(url, test, pool_size=2)


def test_the_databases_clock_moves_on_inside_a_transaction(url: str) -> None:
    async def test(database: Database) -> None:
        before = time.time_ns() // 1_000 - 1_000_000
        async with database.transaction() as connection:
            first = await database.now_us(connection)
            while (second := await database.now_us(connection)) == first:
                pass
            await connection.execute(insert(counter).values(id=ID, value=now_us() + 5))
            stored = (await connection.execute(select(counter.c.value))).scalar_one()
        assert before < first < second < stored < time.time_ns() // 1_000 + 1_000_000

    run(url, test)


def test_a_savepoint_confines_a_failing_statement(url: str) -> None:
    async def test(database: Database) -> None:
        async with database.transaction() as connection:
            await connection.execute(insert(Shelf).values(id=1))
            with pytest.raises(IntegrityError):
                async with connection.begin_nested():
                    await connection.execute(insert(Shelf).values(id=1))
            await connection.execute(insert(Shelf).values(id=2))
        assert await count(database) == 2

    run(url, test)


def test_a_swallowed_failure_commits_nothing_and_says_so(url: str) -> None:
    async def test(database: Database) -> None:
        called: list[str] = []
        with pytest.raises(TransactionAborted):
            async with database.transaction(on_commit=lambda: called.append("committed")) as connection:
                await connection.execute(insert(Shelf).values(id=1))
                with pytest.raises(IntegrityError):
                    await connection.execute(insert(Shelf).values(id=1))
        assert called == []
        assert await count(database) == 0

    run(url, test, pool_size=1)


def test_a_swallowed_failing_flush_commits_nothing_and_says_so(url: str) -> None:
    async def test(database: Database) -> None:
        with pytest.raises(TransactionAborted):
            async with database.transaction() as connection:
                await connection.execute(insert(Shelf).values(id=1))
                session = open_session(connection)
                session.add(Shelf(id=1))
                with pytest.raises(IntegrityError):
                    await session.flush()
                await session.close()
        assert await count(database) == 0

    run(url, test)


def test_after_a_failing_flush_no_statement_begins_another_transaction(url: str) -> None:
    async def test(database: Database) -> None:
        with pytest.raises(Exception, match="transaction"):
            async with database.transaction() as connection:
                await connection.execute(insert(Shelf).values(id=1))
                session = open_session(connection)
                session.add(Shelf(id=1))
                with pytest.raises(IntegrityError):
                    await session.flush()
                await session.close()
                await connection.execute(insert(Shelf).values(id=2))
        assert await count(database) == 0

    run(url, test)


def test_a_handlers_session_shares_the_transaction_and_cannot_end_it(url: str) -> None:
    async def test(database: Database) -> None:
        with pytest.raises(KeyError):
            async with database.transaction() as connection:
                session = open_session(connection)
                session.add(Shelf(id=1))
                for ending in (session.commit(), session.rollback(), session.begin().start()):
                    with pytest.raises(NotYourTransaction):
                        await ending
                await session.flush()
                assert (await connection.execute(select(Shelf.id))).scalars().all() == [1]
                await session.close()
                raise KeyError
        assert await count(database) == 0

    run(url, test)


def test_a_sessions_savepoint_confines_a_failing_flush(url: str) -> None:
    async def test(database: Database) -> None:
        async with database.transaction() as connection:
            session = open_session(connection)
            session.add(Shelf(id=1))
            with pytest.raises(IntegrityError):
                async with session.begin_nested():
                    await session.execute(insert(Book).values(title="Emma", shelf_id=1))
                    session.add(Book(title="Emma", shelf_id=1))
            session.add(Shelf(id=2))
            await session.flush()
            await session.close()
        assert (await count(database), await count(database, Book)) == (2, 0)

    run(url, test)


def test_a_def_handler_works_in_a_thread_in_the_same_transaction(url: str) -> None:
    async def test(database: Database) -> None:
        looped = threading.Event()

        def handler(session: Session) -> list[str]:
            assert threading.current_thread() is not threading.main_thread()
            shelf = session.get_one(Shelf, 1)
            session.add(Book(title="Emma", shelf_id=1))
            asyncio.run_coroutine_threadsafe(tick(), loop)
            assert looped.wait(10)  # the loop runs on while this thread blocks
            return [book.title for book in shelf.books]  # a lazy load, with autoflush

        async def tick() -> None:
            looped.set()

        loop = asyncio.get_running_loop()
        async with database.transaction() as connection:
            await connection.execute(insert(Shelf).values(id=1))
            session = open_session(connection)
            assert await run_in_thread(session, handler) == ["Emma"]
            await session.close()
        assert await count(database, Book) == 1

    run(url, test)


def test_an_error_in_a_def_handler_comes_out_and_rolls_back(url: str) -> None:
    async def test(database: Database) -> None:
        def handler(session: Session) -> None:
            session.add(Shelf(id=1))
            session.flush()
            session.execute(insert(Shelf).values(id=1))

        with pytest.raises(IntegrityError):
            async with database.transaction() as connection:
                await run_in_thread(open_session(connection), handler)
        assert await count(database) == 0

    run(url, test)


def test_a_def_handler_that_is_given_up_can_write_nothing_more(url: str) -> None:
    async def test(database: Database) -> None:
        go_on, ended, errors = threading.Event(), asyncio.Event(), list[BaseException]()
        wrote = asyncio.Event()
        loop = asyncio.get_running_loop()

        def handler(session: Session) -> None:
            session.execute(insert(Shelf).values(id=1))
            loop.call_soon_threadsafe(wrote.set)
            assert go_on.wait(10)
            try:
                session.execute(insert(Shelf).values(id=2))
            except BaseException as error:
                errors.append(error)
            loop.call_soon_threadsafe(ended.set)

        async def work() -> None:
            async with database.transaction() as connection:
                await run_in_thread(open_session(connection), handler)

        task = asyncio.create_task(work())
        await wrote.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        await ended.wait()
        assert len(errors) == 1
        assert await count(database) == 0

    run(url, test, pool_size=1)


def test_several_processes_may_upgrade_at_once(url: str) -> None:
    async def main() -> None:
        async with opened(url, empty=True) as database:
            with pytest.raises(SchemaOutdated):
                await check(database)
            others = [database] * 2
            if url != "sqlite://":
                others += [Database(url, service=database.service, clock=SystemClock()) for _ in range(3)]
            await asyncio.gather(*[upgrade(other) for other in others])
            for other in others:
                await check(other)
            for other in others[2:]:
                await other.close()

    asyncio.run(main())


def test_a_database_answers_pings(url: str) -> None:
    run(url, lambda database: database.ping())


def test_a_pool_without_a_free_connection_is_unavailable(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventplat.storage.postgres.POOL_WAIT_S", 0.01)

    async def test(database: Database) -> None:
        async with database.transaction(read_only=True):
            with pytest.raises(DatabaseUnavailable):
                await database.ping()
        await database.ping()

    run(url, test, pool_size=1)
