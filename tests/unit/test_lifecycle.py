"""Loops: they end when they are told to, and by nothing else."""

from __future__ import annotations

import asyncio

from eventplat.clock import SystemClock
from eventplat.lifecycle import Loop


def test_a_cancellation_that_a_turn_lets_out_is_a_failure_and_the_loop_goes_on() -> None:
    async def test() -> None:
        turns: list[int] = []
        again = asyncio.Event()

        async def turn() -> None:
            turns.append(len(turns))
            if len(turns) == 1:
                inner = asyncio.ensure_future(asyncio.Event().wait())
                inner.cancel()
                await inner
            again.set()

        loop = Loop("test", turn, every_s=60, clock=SystemClock())
        await loop.start()
        async with asyncio.timeout(5):
            await again.wait()
        await loop.stop()
        assert turns == [0, 1]

    asyncio.run(test())


def test_a_loop_whose_own_task_is_cancelled_ends() -> None:
    async def test() -> None:
        begun = asyncio.Event()

        async def turn() -> None:
            begun.set()
            await asyncio.Event().wait()

        loop = Loop("test", turn, every_s=60, clock=SystemClock())
        await loop.start()
        await begun.wait()
        task = loop._task
        assert task is not None
        task.cancel()
        async with asyncio.timeout(5):
            await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(test())


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
