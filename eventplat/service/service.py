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
from eventplat.messages.message import Message
from eventplat.retry import Retry
from eventplat.service.context import Context
from eventplat.service.handlers import Handler, Handlers

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
        """A handler's name: its queue's and its inbox consumer's, as `stock.reserve-stock` or `mail.on-order-placed`."""
        if handler.message.kind == "event":
            return f"{self.name}.{handler.name or f'on-{handler.message.wire.name}'}"
        return f"{self.name}.{handler.message.wire.name}" + (f".v{v}" if (v := handler.message.wire.version) > 1 else "")

    def check(self) -> None:
        """Refuse a service that cannot run as declared.

        Raises:
            BadHandler: Two handlers of one identity, a queue's name that is the platform's own, a command of another
                service, or what needs a database without one.
        """
        self._check_database()
        seen: dict[str, Handler] = {}
        for handler in self.handlers:
            identity = self.identity(handler)
            if identity in seen:
                raise BadHandler(f"{self.name} has two handlers named {identity!r}. Give one of them name=")
            seen[identity] = handler
            if (own := identity.removeprefix(f"{self.name}.")) in RESERVED_QUEUES:
                raise BadHandler(f"{handler.message.__name__}: {identity!r} is the name of a queue of the platform, so none may be named "
                                 f"{own!r}. Name it otherwise: {', '.join(sorted(RESERVED_QUEUES))} are taken")  # fmt: skip
            if handler.message.kind != "event" and (owner := owner_of(handler.message, handler.owner or self.name)) != self.name:
                raise BadHandler(f"{handler.message.__name__} belongs to {owner!r}: only its owner {owner!r} may handle it")


    def _check_database(self) -> None:
        if self.has_database:
            return
        needing = [h.function.__qualname__ for h in self.handlers if h.is_saga or h.ordered or h.batch > 1]
        needing += [tick.name for tick in self.ticks]
        if needing or self.tables is not None:
            raise BadHandler(f"{self.name} has database=False: {', '.join(needing) or 'tables='} cannot do without one")


@asynccontextmanager
async def _no_state() -> AsyncIterator[Any]:
    yield None
