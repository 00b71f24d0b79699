"""Decorators: what `@service.handles(...)` and its like take and return, for type checkers.

Next: service.handlers
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, overload

from typing_extensions import TypeVar

from eventplat.messages.message import Message

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from eventplat.sagas.saga import Saga
    from eventplat.service.context import Context, SyncContext

S = TypeVar("S", default=None)
R = TypeVar("R")
M = TypeVar("M", bound=Message)
M_co = TypeVar("M_co", bound=Message, covariant=True)
T = TypeVar("T")


class Request(Protocol[M_co, R]):
    """The class of a command or query: makes an `M`, is answered by an `R`."""

    def __call__(self, *args: Any, **kwargs: Any) -> M_co: ...
    def reply_adapter(self) -> TypeAdapter[R]: ...


class Handles(Protocol[M, R, S]):
    """Decorates `async def f(message: M, ctx: Context[S]) -> R`, or a `def` with a `SyncContext[S]`."""

    @overload
    def __call__(self, function: Callable[[M, Context[S]], Awaitable[R]]) -> Callable[[M, Context[S]], Awaitable[R]]: ...
    @overload
    def __call__(self, function: Callable[[M, SyncContext[S]], R]) -> Callable[[M, SyncContext[S]], R]: ...


class Takes(Protocol[T, S]):
    """Decorates `async def f(message: T, ctx: Context[S]) -> None`, or a `def` with a `SyncContext[S]`."""

    @overload
    def __call__(self, function: Callable[[T, Context[S]], Awaitable[None]]) -> Callable[[T, Context[S]], Awaitable[None]]: ...
    @overload
    def __call__(self, function: Callable[[T, SyncContext[S]], None]) -> Callable[[T, SyncContext[S]], None]: ...


class Sagas(Protocol[M, R]):
    """Decorates `async def f(message: M, saga: Saga) -> R`."""

    def __call__(self, function: Callable[[M, Saga], Awaitable[R]]) -> Callable[[M, Saga], Awaitable[R]]: ...


class Ticks(Protocol[S]):
    """Decorates `async def f(ctx: Context[S]) -> None`."""

    def __call__(self, function: Callable[[Context[S]], Awaitable[None]]) -> Callable[[Context[S]], Awaitable[None]]: ...
