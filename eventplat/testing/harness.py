"""Harness: a user's services, whole, inside one test.

    async with Harness(orders, stock.using(fake)) as harness:
        answer = await harness.http.post("/orders", json={...})
        await harness.quiet()
        assert harness.published(OrderPlaced) == [...]

What a test asks between two awaits (`published`, `saga`, `dead_letters`) is what the databases said when the harness last
came to rest: after `quiet`, `advance`, `ask`, `publish` and each answer of `http`.

Everything is the real thing in its embedded size: broker with journal, SQLite files in a temporary folder, gateway
over HTTP on loopback. Only the clock is virtual: `advance(hours=2)` is how a test waits.
"""

from __future__ import annotations

import asyncio
import functools
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
from pydantic import TypeAdapter
from sqlalchemy import func, select, text

from eventplat.errors import EventplatError, TimedOut
from eventplat.messages.message import Command, Event, Query
from eventplat.process import Process
from eventplat.sagas import store
from eventplat.sagas.steps import SagaView, view_of
from eventplat.service.client import Client
from eventplat.service.handler import Handler
from eventplat.service.runner import Runner
from eventplat.service.service import Service
from eventplat.settings import load
from eventplat.testing.virtual_clock import VirtualClock
from eventplat.transactions.outbox_tables import event_log, outbox
from eventplat.transactions.pending import Pending, dead_letters, pending

R = TypeVar("R")
E = TypeVar("E", bound=Event)

QUIET_S = 20.0       # real seconds after which a test that never comes to rest fails
PATIENCE_S = 30 * 86_400.0    # of the virtual clock, for an answer: a test may let weeks pass; AMQP carries at most 49 days
CALM_TURNS = 3       # how often in a row nothing is seen to move


class NotQuiet(EventplatError):
    """Messages kept moving for longer than a test may take."""

    code = "EP901"
    next_move = "Look at what the error lists: a handler that sends to itself never ends"


@dataclass
class _Fault:
    error: Exception
    times: int


@dataclass
class _Seen:
    """What the databases said at one moment."""

    events: list[tuple[str, bytes]] = field(default_factory=list)                # type and body, by service, oldest first
    dead_letters: list[Pending] = field(default_factory=list)
    sagas: dict[tuple[str, str], SagaView] = field(default_factory=dict)         # by the handler's identity and the saga's id


class Harness:
    """Runs `services` and the gateway in this loop, in a folder of their own.

    Attributes:
        http: A client of the real gateway.
    """

    http: httpx.AsyncClient

    def __init__(self, *services: Service[Any]) -> None:
        self.clock = VirtualClock()
        self._faults: dict[Callable[..., object], _Fault] = {}
        self._seen = _Seen()
        self._services = [self._breakable(service) for service in services]
        self._folder = tempfile.TemporaryDirectory(prefix="eventplat-")

    async def __aenter__(self) -> Self:
        settings = load(profile="embedded", broker_url=None, database_url=None, data_dir=Path(self._folder.name), gateway_port=0)
        self._process = Process(self._services, settings=settings, clock=self.clock)
        await self._started()
        self.http = httpx.AsyncClient(base_url=self._process.url, timeout=QUIET_S, event_hooks={"response": [self._answered]})
        await self._until_discovered()
        self._client = Client("harness", settings=settings, clock=self.clock)
        await self._client.__aenter__()
        await self._look()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.__aexit__(*exc)
        await self.http.aclose()
        await self._process.stop()
        self._folder.cleanup()

    async def publish(self, event: Event) -> None:
        """Publish `event` in the name of the service that owns it."""
        runner = self._runner_of(event)
        async with runner.out.transactions.begin() as work:
            work.publish(event)
        await self._look()

    async def ask(self, request: Command[R] | Query[R]) -> R:
        """Ask the owner and return its answer, or raise its `Rejected`.

        Raises:
            TimedOut: No answer within 20 real seconds, however far the clock was moved meanwhile.
        """
        try:
            async with asyncio.timeout(QUIET_S):
                return await self._client.ask(request, timeout=PATIENCE_S)
        except TimeoutError:
            raise TimedOut(f"{type(request).__name__} was not answered within {QUIET_S:g} real seconds") from None
        finally:
            await self._look()

    async def quiet(self) -> None:
        """Return when no message moves and nothing is due.

        Raises:
            NotQuiet: That took longer than 20 real seconds.
        """
        loop = asyncio.get_running_loop()
        until, calm = loop.time() + QUIET_S, 0
        while calm < CALM_TURNS:
            moving = await self._moving()
            calm = 0 if moving else calm + 1
            if moving and loop.time() > until:
                raise NotQuiet(f"after {QUIET_S:g} s there still moves: {', '.join(moving)}")
            await asyncio.sleep(0.005)
        await self._look()

    async def advance(self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> None:
        """Let time pass, and what it makes due happen."""
        await self.clock.advance(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
        await self.quiet()

    def published(self, event: type[E]) -> list[E]:
        """Every `event` that a committed transaction published, oldest first."""
        adapter = TypeAdapter(event)
        ending = f".{event.wire.name}.v{event.wire.version}"
        return [adapter.validate_json(body) for type_, body in self._seen.events if type_.endswith(ending)]

    @property
    def dead_letters(self) -> Sequence[Pending]:
        """Messages that ran out of attempts or cannot be read."""
        return self._seen.dead_letters

    def saga(self, function: Callable[..., object], key: str) -> SagaView:
        """The saga that `function` runs under the id `key`.

        Raises:
            LookupError: There is none.
        """
        for runner in self._process.runners:
            for handler in runner.service.handlers:
                found = self._seen.sagas.get((runner.service.identity(handler), key))
                if found is not None and _original(handler) is function:
                    return found
        raise LookupError(f"no saga {key!r} of {getattr(function, '__qualname__', function)}")

    def fail(self, handler: Callable[..., object], error: Exception, *, times: int = 1) -> None:
        """Let the next `times` calls of `handler` raise `error`."""
        self._faults[handler] = _Fault(error, times)

    async def _answered(self, _: httpx.Response) -> None:
        await self._look()

    async def _look(self) -> None:
        """Read what the databases say now."""
        seen = _Seen()
        for runner in self._process.runners:
            async with runner.out.database.transaction(read_only=True) as connection:
                events = await connection.execute(select(event_log.c.type, event_log.c.body).order_by(text("rowid")))
                seen.events += [(row.type, bytes(row.body)) for row in events]
                seen.dead_letters += await dead_letters(connection)
                for row in await connection.execute(select(store.saga)):
                    seen.sagas[row.name, row.id] = view_of(row, await store.steps(connection, row.command_id))
        self._seen = seen

    async def _started(self) -> None:
        """Start the process while time passes: its gateway waits until it has heard its neighbours."""
        starting = asyncio.ensure_future(self._process.start())
        while not starting.done():
            await self.clock.advance(0.02)
            await asyncio.sleep(0.001)
        await starting

    async def _until_discovered(self) -> None:
        """Let time pass until the gateway has heard what every service can do."""
        until = asyncio.get_running_loop().time() + QUIET_S
        while len((await self.http.get("/health/ready")).json().get("instances", {})) < len(self._services):
            if asyncio.get_running_loop().time() > until:
                raise NotQuiet("the gateway has not heard of every service")
            await self.clock.advance(1.0)

    async def _moving(self) -> list[str]:
        found = []
        for runner in self._process.runners:
            name = runner.service.name
            if runner.in_flight:
                found.append(f"{runner.in_flight} messages in {name}")
            if count := await self._due_rows(runner):
                found.append(f"{count} rows due in {name}")
            found += [f"{depth} messages in {queue}" for queue, depth in (await runner.depths()).items() if depth]
        return found

    async def _due_rows(self, runner: Runner) -> int:
        async with runner.out.database.transaction(read_only=True) as connection:
            now_us = await runner.out.database.now_us(connection)
            sending = select(func.count()).select_from(outbox).where((outbox.c.due_us.is_(None)) | (outbox.c.due_us <= now_us))
            retrying = select(func.count()).select_from(pending).where(
                pending.c.state.in_(("retry", "isolated")), pending.c.due_us <= now_us, pending.c.handler.not_in(runner.paused)
            )  # fmt: skip
            timers = select(func.count()).select_from(store.timer).where(store.timer.c.due_us <= now_us)
            return sum([(await connection.execute(counted)).scalar_one() for counted in (sending, retrying, timers)])

    def _runner_of(self, event: Event) -> Runner:
        owner = type(event).wire.owner
        for runner in self._process.runners:
            if owner is None or runner.service.name == owner:
                return runner
        raise LookupError(f"no service {owner!r} in this harness owns {type(event).__name__}")

    def _breakable(self, service: Service[Any]) -> Service[Any]:
        twin = copy(service)
        twin.handlers = [replace(handler, function=self._wrapped(handler.function)) for handler in service.handlers]
        return twin

    def _wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def check() -> None:
            fault = self._faults.get(function)
            if fault is not None and fault.times > 0:
                fault.times -= 1
                raise fault.error

        if asyncio.iscoroutinefunction(function):

            @functools.wraps(function)
            async def wrapped(message: Any, ctx: Any) -> Any:
                check()
                answer: Awaitable[Any] = function(message, ctx)
                return await answer

            return wrapped

        @functools.wraps(function)
        def wrapped_in_thread(message: Any, ctx: Any) -> Any:
            check()
            return function(message, ctx)

        return wrapped_in_thread


def _original(handler: Handler) -> Callable[..., object]:
    return getattr(handler.function, "__wrapped__", handler.function)
