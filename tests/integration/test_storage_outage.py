"""PostgreSQL that restarts, stops taking writes or dies during COMMIT, on a server of this file's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from eventplat.clock import SystemClock
from eventplat.errors import CommitUnknown, DatabaseUnavailable
from eventplat.storage.database import Database, is_transient
from eventplat.storage.migrate import upgrade
from tests.servers import PostgresServer

WITHIN_S = 30.0


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    server = PostgresServer(shared_buffers="16MB")
    server.start()
    yield server
    server.stop("immediate")
    server.remove()


def run(server: PostgresServer, test: Callable[[Database, Database], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(WITHIN_S):
            await within()

    async def within() -> None:
        database, other = (Database(server.url, service="shop", clock=SystemClock(), pool_size=5) for _ in range(2))
        await upgrade(database)
        async with database.transaction() as connection:
            await connection.execute(text("CREATE TABLE IF NOT EXISTS note (id int)"))
            await connection.execute(text("TRUNCATE note"))
        await test(database, other)
        await database.close()
        await other.close()

    asyncio.run(main())


async def notes(database: Database) -> int:
    async with database.transaction(read_only=True) as connection:
        return int((await connection.execute(text("SELECT count(*) FROM note"))).scalar_one())


async def hold_commits(database: Database) -> None:
    """Make every COMMIT after an insert into `note` wait for advisory lock 1."""
    async with database.transaction() as connection:
        await connection.execute(text(
            "CREATE OR REPLACE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END'"
        ))  # fmt: skip
        await connection.execute(text("DROP TRIGGER IF EXISTS hold ON note"))
        await connection.execute(text(
            "CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON note DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION hold()"
        ))  # fmt: skip


async def committing(other: Database) -> int:
    """Wait until a backend stands in COMMIT; its process id."""
    while True:
        async with other.transaction(read_only=True) as connection:
            await connection.execute(text("SET LOCAL ROLE NONE"))  # a service's role does not see the queries of others
            query = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'advisory' AND query LIKE 'COMMIT%'"
            found = (await connection.execute(text(query))).scalar()
        if found is not None:
            return int(found)


def test_after_a_crash_of_the_server_transactions_fail_as_unavailable_and_then_work_by_themselves(server: PostgresServer) -> None:
    async def test(database: Database, other: Database) -> None:
        async def note() -> None:
            async with database.transaction() as connection:
                await connection.execute(text("INSERT INTO note VALUES (1)"))

        await asyncio.gather(*[note() for _ in range(5)])
        with pytest.raises(DatabaseUnavailable):
            async with database.transaction() as connection:
                await connection.execute(text("INSERT INTO note VALUES (2)"))
                await asyncio.to_thread(server.stop, "immediate")
                await connection.execute(text("INSERT INTO note VALUES (3)"))
        with pytest.raises(DatabaseUnavailable):
            await note()
        with pytest.raises(DatabaseUnavailable):
            await database.ping()
        await asyncio.to_thread(server.start)
        await asyncio.gather(*[note() for _ in range(5)])  # the pool's five dead connections were all replaced
        assert await notes(database) == 10

    run(server, test)


def test_idle_connections_that_a_restart_broke_cost_one_failure_at_most(server: PostgresServer) -> None:
    async def test(database: Database, other: Database) -> None:
        await asyncio.gather(*[notes(database) for _ in range(5)])
        await asyncio.to_thread(server.stop, "immediate")
        await asyncio.to_thread(server.start)
        failures = 0
        for _ in range(6):
            try:
                await notes(database)
            except DatabaseUnavailable:
                failures += 1
        assert failures <= 1

    run(server, test)


def test_a_backend_that_dies_during_commit_leaves_it_unknown(server: PostgresServer) -> None:
    async def test(database: Database, other: Database) -> None:
        await hold_commits(database)
        called: list[str] = []

        async def work() -> None:
            async with database.transaction(on_commit=lambda: called.append("committed")) as connection:
                await connection.execute(text("INSERT INTO note VALUES (1)"))

        async with other.transaction() as blocker:
            await blocker.execute(text("SELECT pg_advisory_xact_lock(1)"))
            task = asyncio.create_task(work())
            await blocker.execute(text("SET LOCAL ROLE NONE"))
            await blocker.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": await committing(other)})
            with pytest.raises(CommitUnknown) as caught:
                await task
        assert is_transient(caught.value)
        assert called == []
        await work()
        assert (called, await notes(database)) == (["committed"], 1)

    run(server, test)


def test_a_server_that_crashes_during_commit_leaves_it_unknown(server: PostgresServer) -> None:
    async def test(database: Database, other: Database) -> None:
        await hold_commits(database)

        async def work() -> None:
            async with database.transaction() as connection:
                await connection.execute(text("INSERT INTO note VALUES (1)"))

        with pytest.raises(DatabaseUnavailable):
            async with other.transaction() as blocker:
                await blocker.execute(text("SELECT pg_advisory_xact_lock(1)"))
                task = asyncio.create_task(work())
                await committing(other)
                await asyncio.to_thread(server.stop, "immediate")
                with pytest.raises(CommitUnknown):
                    await task
                await asyncio.to_thread(server.start)
                await blocker.execute(text("SELECT 1"))

    run(server, test)


def test_a_commit_without_an_answer_is_unknown_in_the_end(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventplat.storage.database.COMMIT_S", 0.2)

    async def test(database: Database, other: Database) -> None:
        await hold_commits(database)
        async with other.transaction() as blocker:
            await blocker.execute(text("SELECT pg_advisory_xact_lock(1)"))
            with pytest.raises(CommitUnknown):
                async with database.transaction() as connection:
                    await connection.execute(text("INSERT INTO note VALUES (1)"))
        assert await notes(database) in (0, 1)

    run(server, test)


def test_a_commit_that_has_begun_is_not_cancelled(server: PostgresServer) -> None:
    async def test(database: Database, other: Database) -> None:
        await hold_commits(database)
        called: list[str] = []

        async def work() -> None:
            async with database.transaction(on_commit=lambda: called.append("committed")) as connection:
                await connection.execute(text("INSERT INTO note VALUES (1)"))

        async with other.transaction() as blocker:
            await blocker.execute(text("SELECT pg_advisory_xact_lock(1)"))
            task = asyncio.create_task(work())
            await committing(other)
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()  # impatience changes nothing
            await asyncio.sleep(0)
            assert not task.done()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (called, await notes(database)) == (["committed"], 1)

    run(server, test)


def test_a_cancelled_statement_rolls_back_and_leaves_the_pool_usable(server: PostgresServer) -> None:
    async def test(database: Database, other: Database) -> None:
        async with other.transaction() as blocker:
            await blocker.execute(text("SET LOCAL ROLE NONE"))
            await blocker.execute(text("SELECT pg_advisory_xact_lock(1)"))

            async def work() -> None:
                async with database.transaction() as connection:
                    await connection.execute(text("INSERT INTO note VALUES (1)"))
                    await connection.execute(text("SELECT pg_advisory_xact_lock(1) /* COMMIT */"))

            tasks = [asyncio.create_task(work()) for _ in range(5)]
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'"
            while (await blocker.execute(text(waiting))).scalar_one() < 5:
                await blocker.execute(text("SELECT pg_stat_clear_snapshot()"))  # a transaction sees one picture of it
            for task in tasks:
                task.cancel()
            assert all(isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*tasks, return_exceptions=True))
            assert await asyncio.gather(*[notes(database) for _ in range(5)]) == [0] * 5

    run(server, test)


def test_a_server_that_stops_taking_writes_is_unavailable_until_it_takes_them_again(server: PostgresServer) -> None:
    async def test(database: Database, other: Database) -> None:
        async def set_read_only(value: str) -> None:
            async with admin.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                await connection.exec_driver_sql("SET default_transaction_read_only = off")
                await connection.exec_driver_sql(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
                await connection.exec_driver_sql("SELECT pg_reload_conf()")

        async def is_writable(session: Database) -> bool:
            async with session.connect() as connection:
                return bool((await connection.exec_driver_sql("SHOW transaction_read_only")).scalar_one() == "off")

        async def note() -> None:
            async with database.transaction() as connection:
                await connection.execute(text("INSERT INTO note VALUES (1)"))

        admin = Database(f"{server.url}?target_session_attrs=any", service="admin", clock=SystemClock())
        await note()
        await notes(other)
        await set_read_only("on")
        while await is_writable(other):  # a connection that is open hears of it as well
            pass
        for work in (note, note, other.ping, database.ping):
            with pytest.raises(DatabaseUnavailable):
                await work()
        await set_read_only("off")
        while not await is_writable(admin):
            pass
        await note()
        await database.ping()
        assert await notes(database) == 2
        await admin.close()

    run(server, test)


def test_a_deadlock_and_a_lock_timeout_are_transient_and_a_slow_statement_is_not(server: PostgresServer) -> None:
    async def test(database: Database, other: Database) -> None:
        async def lock(first: int, second: int, both: asyncio.Barrier) -> None:
            async with database.transaction() as connection:
                await connection.execute(text("SET LOCAL deadlock_timeout = '10ms'"))
                await connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": first})
                await both.wait()
                await connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": second})

        async def wait(limit: str) -> None:
            async with other.transaction() as blocker, database.transaction() as connection:
                await blocker.execute(text("SELECT pg_advisory_xact_lock(4)"))
                await connection.execute(text(f"SET LOCAL {limit} = '10ms'"))
                await connection.execute(text("SELECT pg_advisory_xact_lock(4)"))

        async with database.transaction() as connection:  # only a superuser shortens deadlock_timeout: for this test the role may
            await connection.execute(text("SET LOCAL ROLE NONE"))
            await connection.execute(text("GRANT SET ON PARAMETER deadlock_timeout TO eventplat_shop"))
        both = asyncio.Barrier(2)
        ends = await asyncio.gather(lock(2, 3, both), lock(3, 2, both), return_exceptions=True)
        failed = [end for end in ends if end is not None]
        assert [is_transient(error) for error in failed] == [True]
        with pytest.raises(DBAPIError) as timeout:
            await wait("lock_timeout")
        assert is_transient(timeout.value)
        with pytest.raises(DBAPIError) as slow:
            await wait("statement_timeout")
        assert not is_transient(slow.value)

    run(server, test)


def test_one_service_cannot_read_anothers_tables_with_the_same_login(server: PostgresServer) -> None:
    async def test(database: Database, other: Database) -> None:
        async with database.transaction() as connection:
            await connection.execute(text("SET LOCAL ROLE NONE"))
            await connection.execute(text("DROP ROLE IF EXISTS app"))
            await connection.execute(text("CREATE ROLE app LOGIN"))
        url = server.url.replace("postgres@", "app@")
        for name in ("order-book", "payments"):
            admin = Database(server.url, service=name, clock=SystemClock())
            await upgrade(admin, login="app")
            await admin.close()
        orders = Database(url, service="order-book", clock=SystemClock())
        async with orders.transaction() as connection:
            assert (await connection.execute(text("SELECT current_user, current_schema()"))).one() == ("eventplat_order_book", "order_book")
            assert (await connection.execute(text("SELECT count(*) FROM eventplat_outbox"))).scalar_one() == 0
        with pytest.raises(DBAPIError, match="permission denied for schema payments"):
            async with orders.transaction() as connection:
                await connection.execute(text("SELECT count(*) FROM payments.eventplat_outbox"))
        await orders.close()

    run(server, test)


def test_a_login_that_may_not_make_roles_owns_the_tables_itself(server: PostgresServer) -> None:
    async def test(database: Database, other: Database) -> None:
        async with database.transaction() as connection:
            await connection.execute(text("SET LOCAL ROLE NONE"))
            await connection.execute(text("CREATE ROLE plain LOGIN"))
            await connection.execute(text("GRANT CREATE ON DATABASE postgres TO plain"))
        plain = Database(server.url.replace("postgres@", "plain@"), service="plain", clock=SystemClock())
        await upgrade(plain)
        await upgrade(plain)
        async with plain.transaction() as connection:
            owner = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'plain'"
            assert (await connection.execute(text(owner))).scalars().all() == ["plain"]
        await plain.close()

    run(server, test)
