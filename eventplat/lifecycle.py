"""Lifecycle: what starts, runs and stops, and tasks that are never silently dead.

A component has `start` and `stop`; a process starts them bottom up and stops them top down. Background
work runs as a `Loop`: one named task that logs what it raises, waits with growing delay, and goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import Any, Protocol, TypeVar

from eventplat.clock import Clock
from eventplat.errors import EventplatError

T = TypeVar("T")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
COLLECT_AFTER = (10_000, 20, 50)   # new objects, young and middle collections: a message makes some hundred and no cycles
STOP_S = 10.0  # how long a turn may go on after the loop was told to stop

logger = logging.getLogger(__name__)


class Component(Protocol):
    """A part of a process with a beginning and an end."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class Loop:
    """Calls `turn` again and again: after `every_s`, or at once when woken.

    `turn` may return seconds until it wants to run next, or None for `every_s`. An exception is logged
    and answered with a delay that doubles from 0.1 to `slowest_s`; the loop itself never ends by one: nor by a
    `CancelledError` that a turn lets out, unless the loop's own task is being cancelled.
    """

    def __init__(
        self, name: str, turn: Callable[[], Awaitable[float | None]], *, every_s: float, clock: Clock, slowest_s: float = 5.0
    ) -> None:
        self.name = name
        self._turn, self._every_s, self._clock, self._slowest_s = turn, every_s, clock, slowest_s
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        self._stopping = False
        self._task = asyncio.create_task(self._run(), name=self.name)

    async def stop(self, within_s: float = STOP_S) -> None:
        """Let the running turn finish, at most `within_s` seconds, then cancel it."""
        self._stopping = True
        self._woken.set()
        task, self._task = self._task, None
        if task is None:
            return
        await _first_of(task, asyncio.ensure_future(self._clock.sleep(within_s)))
        if not task.done():
            logger.warning("%s did not end its turn within %.1f s and is cancelled", self.name, within_s)
            task.cancel()
            await asyncio.wait([task])

    def wake(self) -> None:
        """Run a turn now, or once more after the one that runs."""
        self._woken.set()

    async def _run(self) -> None:
        delay = 0.1
        while not self._stopping:
            self._woken.clear()
            try:
                wait_s = await self._turn()
                delay = 0.1
            except (Exception, asyncio.CancelledError) as error:
                if is_own_cancellation(error):
                    raise
                if isinstance(error, EventplatError):  # it says all there is to know: the database is away, say
                    logger.warning("%s failed; trying again in %.1f s: %s", self.name, delay, error)
                else:
                    logger.exception("%s failed; trying again in %.1f s", self.name, delay)
                wait_s, delay = delay, min(delay * 2, self._slowest_s)
            if not self._stopping:
                await self._pause(self._every_s if wait_s is None else wait_s)

    async def _pause(self, seconds: float) -> None:
        sleeper = asyncio.ensure_future(self._clock.sleep(max(seconds, 0)))
        waker = asyncio.ensure_future(self._woken.wait())
        try:
            await _first_of(waker, sleeper)
        finally:
            waker.cancel()


def is_own_cancellation(error: BaseException) -> bool:
    """Whether `error` cancels the running task, and is not one that escaped from what it awaited."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


async def _first_of(awaited: asyncio.Future[Any], sleeper: asyncio.Future[None]) -> None:
    try:
        await asyncio.wait([awaited, sleeper], return_when=asyncio.FIRST_COMPLETED)
    finally:
        sleeper.cancel()


@contextlib.asynccontextmanager
async def running(*components: Component):  # type: ignore[no-untyped-def]
    """Start the components in order; stop them in reverse, each even if another's stop failed."""
    started: list[Component] = []
    try:
        for component in components:
            await component.start()
            started.append(component)
        yield
    finally:
        await stop_all(started)


async def stop_all(components: Sequence[Component]) -> None:
    """Stop in reverse order; a failing stop is logged and does not keep the others from stopping."""
    for component in reversed(components):
        try:
            await component.stop()
        except Exception:
            logger.exception("%r did not stop cleanly", component)


async def until_signalled() -> None:
    """Return on the first SIGTERM or SIGINT; a second one ends the process at once."""
    loop, asked = asyncio.get_running_loop(), asyncio.Event()

    def ask() -> None:
        for number in STOP_SIGNALS:  # both: Ctrl-C after a SIGTERM is a second one too
            loop.remove_signal_handler(number)
        asked.set()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, ask)
    await asked.wait()


async def within(timeout_s: float, coroutine: Coroutine[Any, Any, T]) -> T:
    """What `coroutine` returns, unless it takes longer than `timeout_s` seconds from when it first waits.

    What never waits needs no timer: nothing could interrupt it. Most handlers of messages that are applied in memory, or
    gathered for a batch, are like that, and a timer for each would be a tenth of their time.

    Raises:
        TimeoutError: It was cancelled for that.
    """
    try:
        waited = coroutine.send(None)
    except StopIteration as over:
        return over.value  # type: ignore[no-any-return]
    async with asyncio.timeout(timeout_s):
        return await _go_on(coroutine, waited)


@types.coroutine
def _go_on(coroutine: Coroutine[Any, Any, T], waited: Any) -> Generator[Any, Any, T]:
    """The rest of a coroutine that has begun and waits for `waited`: `yield from`, one step later (PEP 380)."""
    try:
        while True:
            try:
                sent = yield waited
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:  # a cancellation above all: the coroutine decides
                waited = coroutine.throw(error)
            else:
                waited = coroutine.send(sent)
    except StopIteration as over:
        return over.value  # type: ignore[no-any-return]


def spare_the_collector() -> None:
    """What a process has loaded and started stays for good: let the garbage collector not look at it again, nor so often.

    For the process's own entry point only: what is garbage by now is collected, what becomes garbage of this later is not.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
