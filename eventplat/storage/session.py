"""Session: an ORM session inside the platform's transaction, for `async def` and for `def` handlers.

A handler's session joins a transaction that was begun before it and is committed after it, with the inbox
claim and the outbox rows. So it cannot commit, roll back or begin one; savepoints are its own.

A `def` handler runs in a worker thread with the same session, not a second one: SQLAlchemy's async engine
runs its synchronous core in a greenlet that hands every awaitable out. Here the greenlet lives in the worker
thread and each awaitable is run on the loop, whose thread is the only one that talks to the database.

A thread cannot be cancelled. When the caller is cancelled or times out, the attempt has failed: the statement
under way is cancelled and every later one raises in the thread, before the transaction is rolled back.

Next: storage.failures
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, NoReturn, TypeVar

from greenlet import getcurrent, greenlet  # type: ignore[import-untyped]
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.util import await_only

from eventplat.errors import NotYourTransaction

R = TypeVar("R")


class HandlerSession(Session):
    """A session that joins a transaction and leaves its ending to the owner."""

    def begin(self, nested: bool = False) -> SessionTransaction:
        """A savepoint with `nested`; anything else raises `NotYourTransaction`."""
        if not nested:
            raise NotYourTransaction("the handler's transaction has begun before the handler")
        return super().begin(nested=True)

    def commit(self) -> NoReturn:
        raise NotYourTransaction("a handler cannot commit: inbox claim, rows and messages commit together when it returns")

    def rollback(self) -> NoReturn:
        raise NotYourTransaction("a handler cannot roll back: raise, and everything it did is rolled back")


def open_session(connection: AsyncConnection) -> AsyncSession:
    """A session on the running transaction of `connection`; flush it before the commit, then close it.

    A failed flush ends the transaction, unless a savepoint (`begin_nested`) confines it.
    """
    return AsyncSession(
        bind=connection, sync_session_class=HandlerSession, join_transaction_mode="rollback_only", expire_on_commit=False
    )


class LateSession(HandlerSession):
    """Joins a transaction that begins with its first statement."""

    def get_bind(self, *_: Any, **__: Any) -> Connection:
        connection: AsyncConnection = await_only(self.info[_BEGIN]())   # inside the session's greenlet
        return connection.sync_connection  # type: ignore[return-value]  # it has begun


_BEGIN = "eventplat begin"


def open_late_session(begin: Callable[[], Awaitable[AsyncConnection]]) -> AsyncSession:
    """As `open_session`, on the transaction that `begin` gives when it is first needed: for `async def` handlers."""
    return AsyncSession(
        sync_session_class=LateSession, join_transaction_mode="rollback_only", expire_on_commit=False, info={_BEGIN: begin}
    )


async def run_in_thread(session: AsyncSession, function: Callable[[Session], R], *, executor: Executor | None = None) -> R:
    """Call `function` with the session's real `Session` in a worker thread; its statements run on the loop.

    Args:
        session: Open, and used by nobody else meanwhile.
        function: Blocking code; context variables are the caller's.
        executor: The threads; by default the loop's own.
    """
    loop = asyncio.get_running_loop()
    bridge = _Bridge(loop)
    work = partial(contextvars.copy_context().run, bridge.call, partial(function, session.sync_session))
    try:
        return await loop.run_in_executor(executor, work)
    finally:
        await bridge.close()


class _Greenlet(greenlet):  # type: ignore[misc]
    """One that SQLAlchemy accepts as the place where synchronous code may await."""

    __sqlalchemy_greenlet_provider__ = True


class _Bridge:
    """Carries awaitables from a worker thread to the loop, until closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._running: asyncio.Task[Any] | None = None
        self._is_closed = False

    def call(self, function: Callable[[], R]) -> R:
        """In the worker thread: run `function`, and each awaitable that it hands out on the loop."""
        context = _Greenlet(function, getcurrent())
        context.gr_context = contextvars.copy_context()  # a new greenlet starts with an empty one
        result = context.switch()
        while not context.dead:
            try:
                value = asyncio.run_coroutine_threadsafe(self._await(result), self._loop).result()
            except BaseException:  # also a cancellation: the code in the greenlet decides
                result = context.throw(*sys.exc_info())
            else:
                result = context.switch(value)
        return result  # type: ignore[no-any-return]

    async def close(self) -> None:
        """On the loop: nothing runs any more for the thread, however long it lives."""
        self._is_closed = True
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def _await(self, awaitable: Awaitable[Any]) -> Any:
        if self._is_closed:
            if asyncio.iscoroutine(awaitable):
                awaitable.close()
            raise NotYourTransaction("the handler was given up: its transaction has been rolled back")
        self._running = asyncio.current_task()
        try:
            return await awaitable
        finally:
            self._running = None
