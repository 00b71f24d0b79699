"""Lifecycle: loops that never die silently, and an end for everything that has begun."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest

from eventplat.clock import SystemClock
from eventplat.errors import DatabaseUnavailable
from eventplat.lifecycle import Loop, running, stop_all, until_signalled, within
from eventplat.testing.virtual_clock import VirtualClock

Does: TypeAlias = Callable[[], Awaitable[float | None]] | float | Exception | None


class Turns:
    """Counts its turns and does in each what a test lists; the last one again and again."""

    def __init__(self, clock: VirtualClock, *does: Does) -> None:
        self.times: list[float] = []
        self._clock, self._does = clock, list(does) or [None]

    async def turn(self) -> float | None:
        self.times.append(round(self._clock.monotonic(), 3))
        does = self._does.pop(0) if len(self._does) > 1 else self._does[0]
        if isinstance(does, Exception):
            raise does
        return await does() if callable(does) else does


async def passed(clock: VirtualClock, seconds: float) -> None:
    """Move time on, once what is ready to run has run."""
    for _ in range(30):
        await asyncio.sleep(0)
    await clock.advance(seconds)
    for _ in range(30):
        await asyncio.sleep(0)


def times_of(*does: Does, seconds: float, slowest_s: float = 5.0) -> list[float]:
    """When a loop of every 10 s had its turns within `seconds`."""

    async def run() -> list[float]:
        clock = VirtualClock()
        turns = Turns(clock, *does)
        loop = Loop("t", turns.turn, every_s=10, clock=clock, slowest_s=slowest_s)
        await loop.start()
        await passed(clock, seconds)
        await loop.stop()
        return turns.times

    return asyncio.run(run())


def test_a_loop_has_its_turn_at_once_and_then_every_so_often() -> None:
    assert times_of(None, seconds=25) == [0, 10, 20]


def test_a_turn_may_say_when_it_wants_the_next() -> None:
    assert times_of(3.0, None, seconds=25) == [0, 3, 13, 23]


def test_a_turn_that_wants_the_next_at_once_gets_it() -> None:
    assert times_of(0.0, -1.0, None, seconds=5) == [0, 0, 0]


def test_a_failing_turn_comes_again_after_a_wait_that_doubles(caplog: pytest.LogCaptureFixture) -> None:
    assert times_of(ValueError("boom"), seconds=4, slowest_s=1) == [0, 0.1, 0.3, 0.7, 1.5, 2.5, 3.5]
    assert caplog.text.count("t failed; trying again in 1.0 s") == 3
    assert "ValueError: boom" in caplog.text


def test_an_error_that_says_all_there_is_to_know_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    times_of(DatabaseUnavailable("the database is starting up"), seconds=0.05)

    assert "t failed; trying again in 0.1 s: the database is starting up" in caplog.text
    assert "Traceback" not in caplog.text


def test_after_a_good_turn_the_wait_begins_small_again() -> None:
    failed = ValueError("boom")

    assert times_of(failed, failed, None, failed, None, seconds=12) == [0, 0.1, 0.3, 10.3, 10.4]


def test_a_loop_outlives_the_cancellation_of_what_its_turn_awaits(caplog: pytest.LogCaptureFixture) -> None:
    async def lost() -> None:
        gone = asyncio.get_running_loop().create_future()
        gone.cancel()
        await gone

    assert times_of(lost, None, seconds=11) == [0, 0.1, 10.1]
    assert "CancelledError" in caplog.text


def test_a_loop_that_is_cancelled_itself_ends(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> bool:
        clock, never = VirtualClock(), asyncio.Event()
        loop = Loop("t", never.wait, every_s=10, clock=clock)
        await loop.start()
        await passed(clock, 1)
        assert loop._task is not None
        loop._task.cancel()
        await asyncio.wait([loop._task], timeout=5)
        return loop._task.cancelled()

    assert asyncio.run(run())
    assert caplog.text == ""


def test_a_loop_that_is_woken_has_its_turn_now() -> None:
    async def run() -> list[float]:
        clock = VirtualClock()
        turns = Turns(clock)
        loop = Loop("t", turns.turn, every_s=10, clock=clock)
        await loop.start()
        await passed(clock, 4)
        loop.wake()
        await passed(clock, 0)
        await passed(clock, 11)
        await loop.stop()
        return turns.times

    assert asyncio.run(run()) == [0, 4, 14]


def test_a_loop_woken_in_its_turn_has_one_more() -> None:
    async def run() -> list[float]:
        clock = VirtualClock()

        async def wakes() -> None:
            loop.wake()
            loop.wake()

        turns = Turns(clock, wakes, None)
        loop = Loop("t", turns.turn, every_s=10, clock=clock)
        await loop.start()
        await passed(clock, 5)
        await loop.stop()
        return turns.times

    assert asyncio.run(run()) == [0, 0]


def test_stopping_lets_the_running_turn_finish() -> None:
    async def run() -> list[str]:
        clock, may_finish, happened = VirtualClock(), asyncio.Event(), list[str]()

        async def turn() -> None:
            await may_finish.wait()
            happened.append("finished")

        loop = Loop("t", turn, every_s=10, clock=clock)
        await loop.start()
        await asyncio.sleep(0)
        stopping = asyncio.create_task(loop.stop())
        await asyncio.sleep(0)
        assert not stopping.done()
        may_finish.set()
        await stopping
        happened.append("stopped")
        return happened

    assert asyncio.run(run()) == ["finished", "stopped"]


def test_a_loop_that_never_started_can_be_stopped_and_a_stopped_one_started_again() -> None:
    async def run() -> list[float]:
        clock = VirtualClock()
        turns = Turns(clock)
        loop = Loop("t", turns.turn, every_s=10, clock=clock)
        await loop.stop()
        for _ in range(2):
            await loop.start()
            await passed(clock, 1)
            await loop.stop()
        return turns.times

    assert asyncio.run(run()) == [0, 1]


class Part:
    def __init__(self, name: str, told: list[str], *, fails_to: str = "") -> None:
        self._name, self._told, self._fails_to = name, told, fails_to

    async def start(self) -> None:
        self._do("start")

    async def stop(self) -> None:
        self._do("stop")

    def _do(self, what: str) -> None:
        self._told.append(f"{what} {self._name}")
        if self._fails_to == what:
            raise OSError(f"{self._name} cannot {what}")


def test_parts_start_bottom_up_and_stop_top_down() -> None:
    told: list[str] = []

    async def run() -> None:
        async with running(Part("a", told), Part("b", told)):
            told.append("running")

    asyncio.run(run())
    assert told == ["start a", "start b", "running", "stop b", "stop a"]


def test_when_a_part_cannot_start_those_before_it_stop() -> None:
    told: list[str] = []

    async def run() -> None:
        async with running(Part("a", told), Part("b", told, fails_to="start"), Part("c", told)):
            told.append("running")

    with pytest.raises(OSError, match="b cannot start"):
        asyncio.run(run())
    assert told == ["start a", "start b", "stop a"]


def test_a_part_that_cannot_stop_keeps_no_other_from_stopping(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    with caplog.at_level(logging.ERROR):
        asyncio.run(stop_all([Part("a", told), Part("b", told, fails_to="stop"), Part("c", told)]))

    assert told == ["stop c", "stop b", "stop a"]
    assert "b cannot stop" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_second_of_either_kind_ends_at_once(number: signal.Signals) -> None:
    async def run() -> None:
        waiting = asyncio.create_task(until_signalled())
        await asyncio.sleep(0)
        os.kill(os.getpid(), number)
        await waiting
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler

    asyncio.run(run())


def test_stopping_waits_for_the_running_turn_and_no_longer_than_it_was_told_to() -> None:
    async def test() -> None:
        ended: list[str] = []
        begun = asyncio.Event()

        async def hangs() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("hangs")

        async def finishes() -> None:
            begun.set()
            await asyncio.sleep(0)
            ended.append("finishes")

        for turn, within_s in ((finishes, 60.0), (hangs, 0.01)):
            begun.clear()
            loop = Loop("test", turn, every_s=60, clock=SystemClock())
            await loop.start()
            await begun.wait()
            async with asyncio.timeout(5):
                await loop.stop(within_s=within_s)
        assert ended == ["finishes", "hangs"]

    asyncio.run(test())


async def ready(value: int) -> int:
    return value


async def late(value: int, steps: list[str]) -> int:
    """Waits twice, and says how it ended."""
    try:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
    except BaseException as error:
        steps.append(type(error).__name__)
        raise
    return value


async def fails(after: int) -> int:
    for _ in range(after):
        await asyncio.sleep(0)
    raise ZeroDivisionError


def test_what_never_waits_is_done_without_a_timer() -> None:
    async def test() -> int:
        asyncio.get_running_loop().call_at = None  # type: ignore[assignment, method-assign]
        return await within(0, ready(7))

    assert asyncio.run(test()) == 7


def test_what_waits_goes_on_to_its_end() -> None:
    assert asyncio.run(within(5, late(7, []))) == 7


def test_what_takes_longer_than_it_may_is_cancelled() -> None:
    steps: list[str] = []

    with pytest.raises(TimeoutError):
        asyncio.run(within(0, late(7, steps)))
    assert steps == ["CancelledError"]


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_error_comes_out_as_it_is(after: int) -> None:
    with pytest.raises(ZeroDivisionError):
        asyncio.run(within(5, fails(after)))


def test_a_cancellation_reaches_what_waits() -> None:
    steps: list[str] = []

    async def test() -> None:
        task = asyncio.create_task(within(5, late(7, steps)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(test())
    assert steps == ["CancelledError"]


def test_a_timeout_of_its_own_is_the_inner_ones_to_answer() -> None:
    async def patient() -> str:
        try:
            async with asyncio.timeout(0):
                await asyncio.sleep(5)
        except TimeoutError:
            return "mine"
        return "no"

    assert asyncio.run(within(5, patient())) == "mine"


def test_one_that_nobody_waits_for_any_more_is_closed() -> None:
    steps: list[str] = []
    begun = within(5, late(7, steps))

    async def test() -> None:
        begun.send(None)

    asyncio.run(test())
    begun.close()
    gc.collect()
    assert steps == ["GeneratorExit"]
