"""Service: a name, its handlers, its state and its tables. A declaration without I/O.

Next: service.context, service.runner
"""

from __future__ import annotations

import copy
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

from sqlalchemy import MetaData
from typing_extensions import TypeVar

from eventplat.broker.topology import owner_of
from eventplat.errors import BadHandler, ServiceError
from eventplat.messages.message import Message, WireName
from eventplat.messages.versions import readings
from eventplat.retry import Retry
from eventplat.service.context import Context
from eventplat.service.handler import Handler
from eventplat.service.handlers import Handlers

S = TypeVar("S", default=None)

RESERVED_SERVICES = frozenset({"reply", "gateway"})                 # `<prefix>.reply.<process>` waits; a hop of "gateway" is a user's
RESERVED_QUEUES = frozenset({"operation", "replies", "dead"})       # `<prefix>.<service>.…`: queues that each service has

Next: TypeAlias = Callable[[Message, Context[Any]], Awaitable[object]]
Middleware: TypeAlias = Callable[[Message, Context[Any], Next], Awaitable[object]]
"""`async def timing(message, ctx, call_next)`: inside the transaction, around one handler."""


class Service(Handlers[S]):
    """What one service is.

    Args:
        name: Lower-case words joined by `-`: the owner in wire names, the schema in the database.
        lifespan: An async context manager; what it yields is `ctx.state`.
        tables: The service's own tables; created at start in the embedded and dev profiles.
        middleware: Functions around each handler, outermost first.
        retry: For handlers that name none.
        database: False for a service that keeps nothing: its handlers run at least once, without `ctx.db`.
    """

    def __init__(
        self,
        name: str,
        *,
        lifespan: Callable[[], AbstractAsyncContextManager[S]] | None = None,
        tables: MetaData | None = None,
        middleware: Sequence[Middleware] = (),
        retry: Retry = Retry(),  # noqa: B008 - frozen
        database: bool = True,
    ) -> None:
        super().__init__()
        if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
            raise ServiceError(f"{name!r} is no service name. Use lower-case words joined by '-', as 'order-book'")
        if name in RESERVED_SERVICES:
            raise ServiceError(f"{name!r} names something of the platform on the broker. Give the service another one")
        self.name = name
        self.lifespan = lifespan or _no_state
        self.tables = tables
        self.middleware = tuple(middleware)
        self.retry = retry
        self.has_database = database

    def include(self, *handlers: Handlers[S] | Handlers[None]) -> None:
        """Take in handlers declared in other files."""
        for group in handlers:
            self.handlers += group.handlers
            self.ticks += group.ticks

    def using(self, state: S) -> Service[S]:
        """A copy whose lifespan yields `state`: for tests and scripts."""

        @asynccontextmanager
        async def given() -> AsyncIterator[S]:
            yield state

        twin = copy.copy(self)
        twin.lifespan = given
        return twin

    def identity(self, handler: Handler) -> str:
        """What a handler is in the database, as `stock.reserve-stock` or `mail.on-order-placed`: the oldest name that it had."""
        return self.names(handler)[0]

    def names(self, handler: Handler) -> tuple[str, ...]:
        """Every name that a handler had, the oldest first; the last one is its own, and its queue's.

        A subscription that goes by its event has been renamed with it. A command's or query's handler has a queue for each wire
        name that it reads, so it needs no other name.
        """
        message = handler.message
        if message.kind != "event":
            return (self.named(message.wire),)
        if handler.foreign is not None:
            own = handler.name or f"from-{'-'.join(re.findall('[a-z0-9]+', handler.foreign.name.lower()))}"
            return tuple(f"{self.name}.{name}" for name in (*handler.formerly, own))
        of_event = (f"on-{wire.name}" for wire in (*message.former, message.wire))
        given = (*handler.formerly, *((handler.name,) if handler.name else of_event))
        return tuple(dict.fromkeys(f"{self.name}.{name}" for name in given))

    def named(self, wire: WireName) -> str:
        """The identity of a command or query under one of its wire names."""
        return f"{self.name}.{wire.name}" + (f".v{wire.version}" if wire.version > 1 else "")

    def check(self) -> None:
        """Refuse a service that cannot run as declared.

        Raises:
            BadHandler: Two handlers of one identity, a queue's name that is the platform's own, a command of another
                service, or what needs a database without one.
        """
        self._check_database()
        seen: dict[str, Handler] = {}
        for handler in self.handlers:
            for identity in self.names(handler):
                if identity in seen:
                    raise BadHandler(f"{self.name} has two handlers named {identity!r}. Give one of them name=")
                seen[identity] = handler
            for identity in self._queues(handler):
                self._check_free(handler, identity)
            if handler.message.kind != "event" and (owner := owner_of(handler.message, handler.owner or self.name)) != self.name:
                raise BadHandler(f"{handler.message.__name__} belongs to {owner!r}: only its owner {owner!r} may handle it")

    def _queues(self, handler: Handler) -> tuple[str, ...]:
        if handler.message.kind == "event":
            return self.names(handler)
        return tuple(self.named(reading.wire) for reading in readings(handler.message))

    def _check_free(self, handler: Handler, identity: str) -> None:
        if (own := identity.removeprefix(f"{self.name}.")) in RESERVED_QUEUES:
            raise BadHandler(f"{handler.message.__name__}: {identity!r} is the name of a queue of the platform, so none may be named "
                             f"{own!r}. Name it otherwise: {', '.join(sorted(RESERVED_QUEUES))} are taken")  # fmt: skip

    def _check_database(self) -> None:
        if self.has_database:
            return
        needing = [h.function.__qualname__ for h in self.handlers if h.is_saga or h.ordered or h.batch > 1 or h.foreign]
        needing += [tick.name for tick in self.ticks]
        if needing or self.tables is not None:
            raise BadHandler(f"{self.name} has database=False: {', '.join(needing) or 'tables='} cannot do without one")


@asynccontextmanager
async def _no_state() -> AsyncIterator[Any]:
    yield None
