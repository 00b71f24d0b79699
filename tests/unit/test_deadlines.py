"""Deadlines: given up in time, or a little late, and never what has ended by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from hypothesis import given
from hypothesis import strategies as st

from eventplat.deadlines import LATE_S, Deadlines
from eventplat.testing.virtual_clock import VirtualClock


class Work:
    """Something with a deadline, and when it was given up."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.given_up_at: list[float] = []

    def expire(self) -> None:
        self.given_up_at.append(self._clock.monotonic())


def on_loop(test: Callable[[VirtualClock, Deadlines[Work]], Awaitable[None]]) -> None:
    async def whole() -> None:
        clock = VirtualClock()
        await test(clock, Deadlines(clock))

    asyncio.run(whole())


async def turn() -> None:
    for _ in range(2):
        await asyncio.sleep(0)


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 5), st.booleans()), max_size=30))
def test_each_is_given_up_once_within_a_tenth_of_a_second_unless_it_ends_before(plan: list[tuple[float, float, bool]]) -> None:
    async def test(clock: VirtualClock, deadlines: Deadlines[Work]) -> None:
        works = []
        for pause_s, seconds, ends in plan:
            await clock.advance(pause_s)
            work = Work(clock)
            works.append((work, clock.monotonic() + seconds, ends))
            deadlines.add(work, seconds)
            if ends:
                deadlines.discard(work)
            await turn()
        await clock.advance(6)

        for work, due, ends in works:
            assert len(work.given_up_at) == (not ends)
            assert all(due <= at <= due + LATE_S + 1e-6 for at in work.given_up_at)
        assert deadlines._live == {}

    on_loop(test)


def test_what_has_no_time_is_given_up_in_the_next_turn() -> None:
    async def test(clock: VirtualClock, deadlines: Deadlines[Work]) -> None:
        work = Work(clock)
        deadlines.add(work, -1)
        assert not work.given_up_at
        await turn()
        assert work.given_up_at == [0.0]

    on_loop(test)


def test_a_thousand_that_end_in_time_need_one_timer() -> None:
    class Counting(VirtualClock):
        timers = 0

        def call_later(self, seconds: float, call: Callable[[], None]) -> asyncio.Future[None]:
            self.timers += 1
            return super().call_later(seconds, call)

    async def whole() -> None:
        clock = Counting()
        deadlines: Deadlines[Work] = Deadlines(clock)
        for _ in range(1_000):
            work = Work(clock)
            deadlines.add(work, 30)
            deadlines.discard(work)
            await clock.advance(0.01)
        assert clock.timers == 1

    asyncio.run(whole())
