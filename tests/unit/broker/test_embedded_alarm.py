"""The disk alarm: on until a write is taken, tried at its own pace, and only once at a time."""

from __future__ import annotations

import asyncio

from eventplat.broker.embedded_alarm import RETRY_S, DiskAlarm
from eventplat.errors import BrokerUnavailable
from eventplat.testing.virtual_clock import VirtualClock


class Disk:
    """A journal's `check`."""

    def __init__(self) -> None:
        self.is_full, self.checks = True, 0

    def check(self) -> None:
        self.checks += 1
        if self.is_full:
            raise BrokerUnavailable("disk full")


class Scene:
    def __init__(self) -> None:
        self.clock, self.disk, self.cleared = VirtualClock(), Disk(), list[bool]()
        self.alarm = DiskAlarm(self.disk, self.clock, self._clear)  # type: ignore[arg-type]

    def _clear(self) -> None:
        self.cleared.append(self.alarm.is_on)

    async def ring(self) -> None:
        self.alarm.ring(BrokerUnavailable("disk full"))
        await asyncio.sleep(0)  # its retry sets its clock


def test_it_is_on_until_the_disk_takes_a_write_and_says_so_once() -> None:
    async def run() -> None:
        scene = Scene()
        assert not scene.alarm.is_on
        await scene.ring()
        await scene.clock.advance(RETRY_S)
        assert (scene.alarm.is_on, scene.cleared) == (True, [])
        scene.disk.is_full = False
        await scene.clock.advance(RETRY_S)
        assert scene.cleared == [False]  # off already when it says so
        await scene.clock.advance(10 * RETRY_S)
        assert (scene.disk.checks, scene.cleared) == (2, [False])

    asyncio.run(run())


def test_ringing_again_does_not_try_more_often() -> None:
    async def run() -> None:
        scene = Scene()
        for _ in range(5):
            await scene.ring()
        await scene.clock.advance(RETRY_S)
        assert scene.disk.checks == 1
        scene.alarm.clear()

    asyncio.run(run())


def test_a_cleared_alarm_tries_no_more_and_can_ring_again() -> None:
    async def run() -> None:
        scene = Scene()
        await scene.ring()
        scene.alarm.clear()
        await scene.clock.advance(3 * RETRY_S)
        assert (scene.alarm.is_on, scene.disk.checks) == (False, 0)
        await scene.ring()
        await scene.clock.advance(RETRY_S)
        assert (scene.alarm.is_on, scene.disk.checks) == (True, 1)
        scene.alarm.clear()

    asyncio.run(run())
