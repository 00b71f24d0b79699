"""Saga: what a durable function is given, and the only things it may await.

    @handlers.saga(PlaceOrder)
    async def checkout(order: PlaceOrder, saga: Saga) -> OrderPlaced:
        await saga.call(ReserveStock(...), undo=ReleaseStock(...))
        saga.pivot()
        ...

The function is started anew whenever something has happened, and fed what happened before; so between two
awaits it may only compute. An awaited step becomes one instruction, yielded to whoever drives the function
(`sagas.replay`): no loop, no future. Clocks and chance are `saga.now` and `saga.random`. Clean-up is `undo=`,
not `finally`: the function is put away at every await, and a step in `finally` does not run then.

Rejected   it did not happen. Escaping from the function, it undoes the steps that are done, last first
Failed     the other side ran out of attempts; it did not happen either
TimedOut   it may have happened: its undo is on its way before the function hears of it
otherwise  a bug: nothing is undone, a fixed deploy goes on from the same history

Source: Garcia-Molina, Salem, "Sagas" (1987); Richardson, Microservices Patterns (2018), 4.

Next: sagas.history
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Generator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Literal, Protocol, TypeVar, overload

from eventplat.errors import Failed, Rejected, SagaError, TimedOut
from eventplat.messages.message import Command, Event, Message, Query
from eventplat.retry import Duration, seconds

R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Instruction:
    """What an await yields to the driver; the driver's answer is what the await returns or raises."""

    __slots__ = ()

    def __await__(self) -> Generator[Instruction, Any, Any]:
        return (yield self)


@dataclass(frozen=True, slots=True)
class Call(Instruction):
    """Ask `request` of its owner."""

    request: Message
    undo: Message | None
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Sleep(Instruction):
    """Go on in `duration_s`."""

    duration_s: float


@dataclass(frozen=True, slots=True)
class Gather(Instruction):
    """Run all `branches`, each under a path of its own."""

    branches: tuple[Awaitable[Any], ...]


class Halt(BaseException):
    """Ends a run from inside the function, past any `except Exception` in it."""


class Cancellation(BaseException):
    """The saga was cancelled: raised by every further await and by `pivot`; not caught by `except Exception`."""


ENDINGS = (Rejected, Failed, TimedOut, Cancellation)
"""Escaping from the function they undo what is done; every other exception is a bug."""


class Driver(Protocol):
    """Who runs the function (`sagas.replay`), as the handle sees it."""

    now_us: int

    def admit(self) -> None:
        """Raise `Halt` if the function has been put away."""

    def keep(self, made: Awaitable[Any]) -> None:
        """Close `made` with the function, if it has not been awaited by then."""

    def tell(self, kind: Literal["publish", "send", "pivot"], message: Message | None) -> None:
        """Take a step that nothing waits for."""

    def place(self) -> str:
        """The path that the next step of the running branch will get."""


class Saga:
    """The handle of one saga.

    Attributes:
        id: What identifies it: the named field of its command, else the command's message id.
        version: Of the code that started it: `if saga.version >= 2: …` keeps old histories replayable.
    """

    def __init__(self, saga_id: str, version: int, driver: Driver) -> None:
        self.id = saga_id
        self.version = version
        self._driver = driver
        self._randoms: dict[str, Random] = {}

    @property
    def now(self) -> datetime:
        """When the newest answer that the function has heard was recorded; before the first, when the saga started. UTC."""
        return _EPOCH + timedelta(microseconds=self._driver.now_us)

    @property
    def random(self) -> Random:
        """Chance that replays: seeded by the saga's id and the position in the function."""
        place = self._driver.place()
        if place not in self._randoms:
            self._randoms[place] = Random(f"{self.id}/{place}")  # noqa: S311 - reproducible on purpose
        return self._randoms[place]

    def call(
        self, request: Command[R] | Query[R], *, undo: Command[Any] | None = None, timeout: Duration = 30
    ) -> Coroutine[Any, Any, R]:
        """Ask `request` of its owner and return the reply.

        Args:
            undo: Undoes it, should the saga not come through. Built before the reply, because a step that timed out
                has none and must be undone all the same: it names the order, not the receipt. Same owner and key as
                `request`. After the pivot nothing is undone.
            timeout: After this it is undone and `TimedOut` is raised; after the pivot it is sent again instead.

        Raises:
            Rejected: The owner said no.
            Failed: The owner ran out of attempts. After the pivot the saga waits for the operator instead.
            TimedOut: No answer in `timeout`.
        """
        if undo is not None and (undo.key != request.key or undo.wire.owner != request.wire.owner):
            pair = f"{request.wire.owner}, {request.key!r} and {undo.wire.owner}, {undo.key!r}"
            raise SagaError(f"{undo.wire.name} cannot undo {request.wire.name}: owner and key must be the same, not {pair}")
        return self._step(Call(request, undo, seconds(timeout)))

    def sleep(self, duration: Duration) -> Coroutine[Any, Any, None]:
        """Go on in `duration`: minutes or months, over restarts."""
        return self._step(Sleep(seconds(duration)))

    @overload
    def gather(self, a: Awaitable[A], b: Awaitable[B], /) -> Coroutine[Any, Any, tuple[A, B]]: ...
    @overload
    def gather(
        self, a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], /
    ) -> Coroutine[Any, Any, tuple[A, B, C]]: ...
    @overload
    def gather(
        self, a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], d: Awaitable[D], /
    ) -> Coroutine[Any, Any, tuple[A, B, C, D]]: ...
    @overload
    def gather(
        self, a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], d: Awaitable[D], e: Awaitable[E], /
    ) -> Coroutine[Any, Any, tuple[A, B, C, D, E]]: ...
    @overload
    def gather(
        self, a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], d: Awaitable[D], e: Awaitable[E], f: Awaitable[F], /
    ) -> Coroutine[Any, Any, tuple[A, B, C, D, E, F]]: ...
    @overload
    def gather(self, *branches: Awaitable[A]) -> Coroutine[Any, Any, tuple[A, ...]]: ...
    def gather(self, *branches: Awaitable[Any]) -> Coroutine[Any, Any, Any]:
        """Run steps, or whole `async def` branches, side by side; their results in the order given.

        All of them end before anything is raised: then the first failure by position, a bug before a refusal.
        """
        for branch in branches:
            self._driver.keep(branch)
        return self._step(Gather(branches))

    def publish(self, event: Event) -> None:
        """Publish `event` with the decision being made; it is not taken back by a compensation."""
        self._driver.tell("publish", event)

    def send(self, command: Command[Any]) -> None:
        """Send `command` with the decision being made; nobody waits for its answer, nothing undoes it."""
        self._driver.tell("send", command)

    def pivot(self) -> None:
        """The point of no return: from here on steps are repeated, never undone, and the saga cannot be cancelled.

        A refusal that escapes the function after it waits for the operator. Not in a branch of `gather`.
        """
        self._driver.tell("pivot", None)

    def _step(self, instruction: Instruction) -> Coroutine[Any, Any, Any]:
        step = self._await(instruction)
        self._driver.keep(step)
        return step

    async def _await(self, instruction: Instruction) -> Any:
        self._driver.admit()
        return await instruction
