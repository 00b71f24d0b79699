"""Leases on both databases: one holder at a time, tokens that only grow, and writes that an older token cannot make."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Literal, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from eventplat.clock import Cancellable, SystemClock
from eventplat.coordination.lease import Leases, Standing, announce, fence, forget, lease, standings
from eventplat.errors import StaleLease
from eventplat.storage.database import Database
from eventplat.storage.migrate import upgrade

TERM_S = 3_000.0     # so long that the real seconds of a test are nothing


class OwnClock:
    """The clock of one process; its wall clock says nothing that anybody may ask for."""

    def __init__(self, at_s: float = 0.0) -> None:
        self.at_s = at_s

    def monotonic(self) -> float:
        return self.at_s

    def now(self) -> datetime:
        raise AssertionError("a lease never reads a wall clock")

    def time_us(self) -> int:
        raise AssertionError("a lease never reads a wall clock")

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("a lease never waits")

    def call_later(self, seconds: float, call: Callable[[], None]) -> Cancellable:
        raise AssertionError("a lease never waits")


class World:
    """Some processes that stand for one lease, and time that passes for all of them and the database."""

    def __init__(self, database: Database, count: int = 2) -> None:
        self.database = database
        self.clocks = [OwnClock(1_000.0 * number) for number in range(count)]
        self.processes = [Leases(database, f"process {n}", term_s=TERM_S, clock=self.clocks[n]) for n in range(count)]

    async def passes(self, seconds: float, *, only_here: bool = False) -> None:
        """Let time pass; `only_here`: the database's clock jumps."""
        async with self.database.transaction() as connection:
            await connection.execute(update(lease).values(until_us=lease.c.until_us - int(seconds * 1_000_000)))
        for clock in () if only_here else self.clocks:
            clock.at_s += seconds

    async def write(self, token: int) -> bool:
        """A protected write; whether it was let through."""
        try:
            async with self.database.transaction() as connection:
                await fence(connection, "lead", token)
        except StaleLease:
            return False
        return True


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    database = Database(url, service="shop", clock=SystemClock(), pool_size=8)
    try:
        async with database.transaction() as connection:
            await connection.execute(lease.delete())
            await connection.exec_driver_sql("DELETE FROM eventplat_fence")
        yield database
    finally:
        await database.close()


@pytest.fixture(params=["sqlite", "postgresql"], scope="module")
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "sqlite":
        found = f"sqlite:///{tmp_path_factory.mktemp('lease') / 'shop.db'}"
    else:
        from tests.servers import fresh_database  # noqa: PLC0415 - starts a server, only when a test needs it

        found = fresh_database()

    async def prepare() -> None:
        database = Database(found, service="shop", clock=SystemClock())
        await upgrade(database)
        await database.close()

    asyncio.run(prepare())
    return found


def played(url: str, test: Callable[[Database], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with opened(url) as database:
            await test(database)

    asyncio.run(whole())


def test_of_many_that_stand_at_once_one_gets_it(url: str) -> None:
    async def test(database: Database) -> None:
        world = World(database, 8)
        taken = await asyncio.gather(*(process.take(["lead"]) for process in world.processes))
        assert sorted(map(len, taken)) == [0] * 7 + [1]
        (leader,) = [process for process in world.processes if process.holds("lead")]
        assert leader.token("lead") == 1

    played(url, test)


def test_a_lease_is_taken_over_only_when_its_term_has_passed_and_with_a_higher_token(url: str) -> None:
    async def test(database: Database) -> None:
        world = World(database)
        one, other = world.processes
        assert await one.take(["lead"])
        await world.passes(TERM_S - 60)
        assert not await other.take(["lead"])
        await world.passes(61)
        assert await other.take(["lead"])
        assert other.token("lead") == 2

    played(url, test)


def test_renewed_in_time_it_stays_with_its_holder_and_its_token(url: str) -> None:
    async def test(database: Database) -> None:
        world = World(database)
        one, other = world.processes
        await one.take(["lead", "also"])
        for _ in range(5):
            await world.passes(TERM_S / 3)
            assert await one.renew() == frozenset()
            assert not await other.take(["lead"])
        assert one.token("lead") == one.token("also") == 1

    played(url, test)


def test_a_holder_stops_by_its_own_clock_at_two_thirds_of_its_term_and_takes_it_anew(url: str) -> None:
    async def test(database: Database) -> None:
        world = World(database)
        one, other = world.processes
        await one.take(["lead"])
        await world.passes(TERM_S * 2 / 3 - 1)
        assert one.holds("lead")
        assert one.remaining_s("lead") == pytest.approx(1)
        await world.passes(1)
        assert not one.holds("lead")
        with pytest.raises(StaleLease, match="had token 1, its term has run out"):
            one.token("lead")
        assert not await other.take(["lead"])  # nor does anybody else have it yet
        assert await one.renew() == {"lead"}
        assert await one.take(["lead"])
        assert one.token("lead") == 2

    played(url, test)


def test_a_process_that_was_paused_past_its_term_cannot_renew_or_write(url: str) -> None:
    async def test(database: Database) -> None:
        world = World(database)
        paused, other = world.processes
        await paused.take(["lead"])
        token = paused.token("lead")  # checked, and paused before it writes
        await world.passes(TERM_S * 3)
        await other.take(["lead"])
        assert await world.write(other.token("lead"))
        with pytest.raises(StaleLease, match=r"had token 1, the current one is 2.*EP401") as stale:
            async with database.transaction() as connection:
                await fence(connection, "lead", token)
        assert (stale.value.held, stale.value.current) == (1, 2)
        assert await paused.renew() == {"lead"}
        assert other.holds("lead")

    played(url, test)


def test_a_clock_of_the_database_that_jumps_lets_another_in_early_and_the_fence_shuts_the_first_out(url: str) -> None:
    async def test(database: Database) -> None:
        world = World(database)
        one, other = world.processes
        await one.take(["lead"])
        assert await world.write(one.token("lead"))
        await world.passes(TERM_S, only_here=True)
        assert await other.take(["lead"])
        assert one.holds("lead")  # as far as it can know
        assert await world.write(one.token("lead"))  # nobody has written with a newer one: no harm
        assert await world.write(other.token("lead"))
        assert not await world.write(one.token("lead"))
        assert await one.renew() == {"lead"}

    played(url, test)


def test_a_term_that_has_passed_on_the_databases_clock_is_not_renewed_even_where_nobody_has_taken_it(url: str) -> None:
    async def test(database: Database) -> None:
        world = World(database)
        one = world.processes[0]
        await one.take(["lead"])
        await world.passes(TERM_S, only_here=True)
        assert await one.renew() == {"lead"}
        assert not one.holds("lead")

    played(url, test)


def test_what_is_released_is_free_at_once_and_its_token_goes_on(url: str) -> None:
    async def test(database: Database) -> None:
        world = World(database)
        one, other = world.processes
        await one.take(["lead"])
        await one.release(["lead", "never had"])
        assert not one.holds("lead")
        assert await other.take(["lead"])
        assert other.token("lead") == 2
        await one.release(["lead"])  # not its own any more
        assert not await one.take(["lead"])

    played(url, test)


def test_who_never_had_it_has_no_token(url: str) -> None:
    async def test(database: Database) -> None:
        with pytest.raises(StaleLease, match="this process does not hold it, take it first"):
            World(database).processes[0].token("lead")

    played(url, test)


def test_everybody_sees_who_stands_where(url: str) -> None:
    async def test(database: Database) -> None:
        world = World(database)
        one, other = world.processes
        async with database.transaction() as connection:
            await announce(connection, ["a/2", "a/1", "a/3", "b/1"])
        await one.take(["a/1"])
        await other.take(["a/2", "b/1"])
        await world.passes(TERM_S + 1)
        await one.take(["a/3"])
        async with database.transaction() as connection:
            await announce(connection, ["a/3"])  # is there
            seen = await standings(connection, "a/")
            assert seen == [Standing("a/1", None), Standing("a/2", None), Standing("a/3", "process 0")]
            await forget(connection, "a/", silent_s=0)
            assert await standings(connection, "a") == [Standing("a/3", "process 0")]
            assert await standings(connection, "b/") == [Standing("b/1", None)]

    played(url, test)


# --- the rules, under any schedule ----------------------------------------------------------------

Move: TypeAlias = tuple[Literal["take", "renew", "release", "unheard take", "unheard renew", "check", "write", "pass"], int]
KINDS = ("take", "renew", "release", "unheard take", "unheard renew", "check", "write", "pass", "pass")
MOVES = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 2)), min_size=5, max_size=40)
PASSES_S = (TERM_S / 6, TERM_S / 2, TERM_S + 1)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(moves=MOVES)
def test_never_two_hold_it_tokens_only_grow_and_no_write_follows_a_newer_one(url: str, moves: list[Move]) -> None:
    """Who makes no move is paused; an unheard answer is one whose transaction was committed."""

    async def test(database: Database) -> None:
        world, taken, checked, written = World(database, 3), [0], list[int](), [0]
        for move, number in moves:
            process = world.processes[number]
            before = dict(process._held)
            match move:
                case "take" | "unheard take":
                    if await process.take(["lead"]):
                        taken.append(process.token("lead"))
                    if move == "unheard take":
                        process._held = before
                case "renew" | "unheard renew":
                    await process.renew()
                    if move == "unheard renew":
                        process._held = before
                case "release":
                    await process.release(["lead"])
                case "check":
                    checked += [process.token("lead")] if process.holds("lead") else []
                case "write":
                    written += [token for token in checked[-1 - number :][:1] if await world.write(token)]
                case "pass":
                    await world.passes(PASSES_S[number])
            assert sum(each.holds("lead") for each in world.processes) <= 1
        assert taken == sorted(set(taken))
        assert written == sorted(written)
        async with database.transaction() as connection:
            kept = (await connection.execute(select(lease.c.token))).scalar()
        assert (kept or 0) >= taken[-1]

    played(url, test)
