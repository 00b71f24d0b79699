"""Handlers: what a service declares. Checked when the module is imported, not when a message comes.

    @stock.handles(ReserveStock, http="POST /reservations")
    async def reserve(command: ReserveStock, ctx: Context) -> Reservation: ...

A decorator returns the function unchanged, so that a unit test calls `await reserve(command, ctx)`.
Type checkers relate message, reply and context: a handler of `Command[Reservation]` that returns
anything else is an error before it runs.

Next: service.service
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Generic, Literal, cast, overload

from pydantic import BaseModel
from typing_extensions import TypeVar

from eventplat.discovery.route import Route
from eventplat.errors import BadHandler
from eventplat.messages.codec import Properties
from eventplat.messages.foreign import Decode, ForeignMessage, ForeignQueue
from eventplat.messages.message import Event, Message
from eventplat.retry import Duration, Retry, seconds
from eventplat.service.decorators import Handles, Request, Sagas, Takes, Ticks
from eventplat.service.handler import Handler, Tick, check
from eventplat.service.schedule import Cron, Every, Schedule

S = TypeVar("S", default=None)
R = TypeVar("R")
M = TypeVar("M", bound=Message)
M_co = TypeVar("M_co", bound=Message, covariant=True)
E = TypeVar("E", bound=Event)
F = TypeVar("F", bound=Callable[..., object])
T = TypeVar("T")
B = TypeVar("B", bound=BaseModel)


class Handlers(Generic[S]):
    """A group of handlers, to a Service what an APIRouter is to FastAPI."""

    def __init__(self) -> None:
        self.handlers: list[Handler] = []
        self.ticks: list[Tick] = []

    def handles(
        self,
        message: Request[M, R],
        *,
        http: str | Route | None = None,
        requires: str | Sequence[str] = (),
        owner: str | None = None,
        ordered: bool = False,
        concurrency: int | None = None,
        batch: int = 1,
        retry: Retry | None = None,
        timeout: Duration = 60,
        transaction: Literal["early", "late"] = "early",
    ) -> Handles[M, R, S]:
        """Handle a command or query: this service owns it.

        Args:
            message: The message class; its reply type is what the function returns.
            http: Also reachable through the gateway, as "POST /orders" or a `Route`.
            requires: Scopes that the caller must have, checked where the effect happens.
            owner: The owning service where the class does not name it; default: this service.
            ordered: Of a command or query: refused, since only events are numbered.
            concurrency: Messages handled at a time in one process; default: the prefetch.
            batch: Up to this many messages share a transaction. Where one of them fails the others run again, so what
                a handler does outside the database goes by `ctx.idempotency_key`. Rows that are added to `ctx.db` are
                written in one statement for the batch; a statement of the handler's own costs a round trip each.
            retry: For exceptions other than `Rejected`; default: the service's.
            timeout: For one attempt. A `def` handler's thread cannot be stopped: there it means that the attempt failed.
            transaction: "late" begins it with the first statement on `ctx.db`, or when the handler returns; until then it may
                `await ctx.ask(...)`. What a copy of the message asks meanwhile is asked twice, what it writes is written once.

        Raises:
            BadHandler: The function's signature or the route does not fit the message.
        """
        declare = self._declare(message, None, http, requires, owner=owner, ordered=ordered, concurrency=concurrency,
                             batch=batch, retry=retry, timeout_s=seconds(timeout), is_late=transaction == "late")  # fmt: skip
        return cast("Handles[M, R, S]", declare)

    def on(
        self,
        event: type[E],
        *,
        name: str | None = None,
        formerly: str | Sequence[str] = (),
        start: Literal["now", "beginning"] | datetime = "now",
        requires: str | Sequence[str] = (),
        ordered: bool = False,
        partitions: int = 1,
        concurrency: int | None = None,
        batch: int = 1,
        retry: Retry | None = None,
        timeout: Duration = 60,
        transaction: Literal["early", "late"] = "early",
    ) -> Handles[E, None, S]:
        """Subscribe to an event, with a queue of its own; see `handles` for the shared arguments.

        Args:
            name: Identity of the subscription, kept over renames of the function; default: `on-<event>`.
            formerly: Names that this subscription had, the oldest first. Their queues are read for as long as they are there,
                beside the one of the new name; what was handled, is retried or stands in order under the old name counts here,
                also while instances of the old release run. So it stays in the code: the oldest name is the one in the database.
            start: From now on. With the past as well is refused as yet.
            ordered: Apply events of one key in the order they were published, other keys beside it; with `batch`, several of
                each in one transaction.
            partitions: Queues that the keys of an ordered subscription are spread over, 1..64, each consumed by one instance
                at a time: so many run at once, over all instances. It may be another number in each release.
        """
        former = (formerly,) if isinstance(formerly, str) else tuple(formerly)
        declare = self._declare(event, name, None, requires, formerly=former, start=start, ordered=ordered, partitions=partitions,
                             concurrency=concurrency, batch=batch, retry=retry, timeout_s=seconds(timeout),
                             is_late=transaction == "late")  # fmt: skip
        return cast("Handles[E, None, S]", declare)

    @overload
    def consume(
        self, *, queue: str, decode: type[B], id: Callable[[B], object] | str | None = None, name: str | None = None,
        formerly: str | Sequence[str] = (), concurrency: int | None = None, retry: Retry | None = None, timeout: Duration = 60,
    ) -> Takes[B, S]: ...  # fmt: skip
    @overload
    def consume(
        self, *, queue: str, decode: Callable[[bytes, Properties], T], id: Callable[[T], object] | str | None = None,
        name: str | None = None, formerly: str | Sequence[str] = (), concurrency: int | None = None, retry: Retry | None = None,
        timeout: Duration = 60,
    ) -> Takes[T, S]: ...  # fmt: skip
    @overload
    def consume(
        self, *, queue: str, decode: None = None, id: Callable[[dict[str, Any]], object] | str | None = None,
        name: str | None = None, formerly: str | Sequence[str] = (), concurrency: int | None = None, retry: Retry | None = None,
        timeout: Duration = 60,
    ) -> Takes[dict[str, Any], S]: ...  # fmt: skip
    def consume(
        self,
        *,
        queue: str,
        decode: Decode | type[BaseModel] | None = None,
        id: Callable[[Any], object] | str | None = None,  # noqa: A002 - the word a reader expects
        name: str | None = None,
        formerly: str | Sequence[str] = (),
        concurrency: int | None = None,
        retry: Retry | None = None,
        timeout: Duration = 60,
    ) -> Any:
        """Read a queue that eventplat did not declare and another system writes: the same transaction, inbox and retries.

        Args:
            queue: Its name on the broker, without a prefix. It must be there: it is looked for, never declared.
            decode: `(body, properties) -> T`, pure; or a pydantic model. Default: the JSON as a dictionary. What it cannot
                read is parked as dead, with the reason.
            id: What tells a copy from a new message: a function of what `decode` made, or the name of a property or header.
                Default: the `message_id` that the other system sets.
            name: Identity in the inbox; default: `from-<queue>`.
            formerly: Names that it had, the oldest first: the inbox goes on under the oldest.
            concurrency, retry, timeout: As for `handles`.
        """
        former = (formerly,) if isinstance(formerly, str) else tuple(formerly)
        return self._declare(ForeignMessage, name, None, (), formerly=former, foreign=ForeignQueue(queue, decode, id),
                             concurrency=concurrency, retry=retry, timeout_s=seconds(timeout))  # fmt: skip

    def saga(
        self,
        message: Request[M, R],
        *,
        id: str | None = None,  # noqa: A002 - the word a reader expects: what names the saga
        http: str | Route | None = None,
        requires: str | Sequence[str] = (),
        owner: str | None = None,
        version: int = 1,
        timeout: Duration | None = None,
    ) -> Sagas[M, R]:
        """Handle a command by a durable function: every awaited call is a recorded step.

        Args:
            id: The command's field that names the saga, so that one value never starts twice; default: the message id.
            version: What new sagas get as `saga.version`.
            timeout: After this a saga stands in the operator state; default: 7 days.
        """
        declare = self._declare(message, None, http, requires, owner=owner, is_saga=True, saga_id=id, saga_version=version,
                             saga_timeout_s=None if timeout is None else seconds(timeout))  # fmt: skip
        return cast("Sagas[M, R]", declare)

    def every(self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> Ticks[S]:
        """Run once per period in the whole cluster; what was missed while nobody ran is made up for once.

        `ctx.fencing_token` is the tick's time, which only grows: hand it to systems outside the database.
        """
        period_us = int((((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1_000_000)
        if period_us <= 0:
            raise BadHandler("every() without a period. Write @service.every(minutes=5)")
        return self._tick(Every(period_us))

    def cron(self, expression: str, *, timezone: str = "UTC") -> Ticks[S]:
        """Run at the times of a cron expression, once in the whole cluster, as `every`.

        Args:
            expression: Minute, hour, day of month, month, day of week, as "0 3 * * *"; with a sixth field before them, seconds.
            timezone: Whose clocks they are read on, as "Europe/London". A time that they skip is made up for right after,
                one that they show twice runs once.

        Raises:
            BadHandler: The expression or the zone is none.
        """
        return self._tick(Cron(expression, timezone))

    def _tick(self, schedule: Schedule) -> Ticks[S]:
        def declare(function: F) -> F:
            _check_signature(function, ("ctx",))
            self.ticks.append(Tick(function=function, schedule=schedule))  # type: ignore[arg-type]
            return function

        return declare

    def _declare(self, message: Any, name: str | None, http: str | Route | None, requires: str | Sequence[str], **options: Any) -> Any:
        route = Route(http) if isinstance(http, str) else http
        scopes = (requires,) if isinstance(requires, str) else tuple(requires)

        def declare(function: F) -> F:
            if route is not None:
                route.check(message)
            _check_signature(function, ("message", "saga" if options.get("is_saga") else "ctx"))
            handler = Handler(message=message, function=function, name=name, route=route, requires=scopes, **options)
            check(handler)
            self.handlers.append(handler)
            return function

        return declare


def _check_signature(function: Callable[..., object], wanted: tuple[str, ...]) -> None:
    parameters = [
        p for p in inspect.signature(function).parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(parameters) != len(wanted):
        raise BadHandler(f"{function.__qualname__} takes {len(parameters)} arguments. A handler takes exactly ({', '.join(wanted)})")
