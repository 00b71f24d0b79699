"""Client: outside handlers - FastAPI routes of your own, scripts, notebooks.

    async with Client("orders") as client, client.transaction() as tx:
        tx.db.add(order)
        tx.publish(OrderPlaced(...))

A client acts in a service's name and database: what it commits is sent by it, or, should it die before,
by the relay of the running service.

Next: service.outgoing
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from random import SystemRandom
from typing import Any, Self, TypeVar

from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.util import await_only

from eventplat.broker.connect import open_transport
from eventplat.broker.topology import Names
from eventplat.broker.transport import Transport
from eventplat.clock import Clock, SystemClock
from eventplat.messages.ids import Chance
from eventplat.messages.message import Command, Event, Query
from eventplat.retry import Duration, seconds
from eventplat.routing.request_reply import Requester
from eventplat.service.asking import answer_in, asked
from eventplat.service.dead_letters import DeadLetters
from eventplat.service.handler_control import HandlerControl
from eventplat.service.outgoing import Outgoings
from eventplat.service.raw import SendsRaw
from eventplat.settings import Settings, load
from eventplat.transactions.unit_of_work import UnitOfWork

R = TypeVar("R")


class Transaction(SendsRaw):
    """An open transaction: rows through `db`, messages through `publish` and `send`, all or nothing."""

    def __init__(self, work: UnitOfWork, session: AsyncSession | None = None) -> None:
        self._work, self._session = work, session

    @property
    def db(self) -> AsyncSession:
        """The session of this transaction."""
        return self._session if self._session is not None else self._work.session()

    def publish(self, event: Event, *, after: Duration = 0) -> str:
        """An outbox row for `event`; returns its id."""
        return self._work.publish(event, after_s=seconds(after))

    def send(self, command: Command[Any], *, after: Duration = 0) -> str:
        """An outbox row for `command`; returns its id."""
        return self._work.send(command, after_s=seconds(after))

    async def cancel(self, message_id: str) -> bool:
        """Take back a message sent with `after=` that still waits; False where it has left."""
        return await self._work.cancel(message_id)


class _Joined:
    """Follows somebody else's session: the commit of its transaction sends, a rollback forgets."""

    def __init__(self, session: Session, out: Outgoings) -> None:
        self._out = out
        self._work: UnitOfWork | None = None
        self._marks: dict[SessionTransaction, tuple[int, int]] = {}
        sqlalchemy_event.listen(session, "after_transaction_create", self._begun)
        sqlalchemy_event.listen(session, "before_commit", self._before_commit)
        sqlalchemy_event.listen(session, "after_commit", self._after_commit)
        sqlalchemy_event.listen(session, "after_soft_rollback", self._undone)
        sqlalchemy_event.listen(session, "after_transaction_end", self._ended)

    def work(self, connection: AsyncConnection) -> UnitOfWork:
        """The one unit of work of the session's running transaction."""
        if self._work is None:
            self._work = self._out.transactions.joined(connection)
        return self._work

    def _begun(self, _: Session, transaction: SessionTransaction) -> None:
        if self._work is not None and transaction.nested:
            self._marks[transaction] = self._work.mark()

    def _before_commit(self, session: Session) -> None:
        if self._work is not None and session.get_nested_transaction() is None:
            await_only(self._out.transactions.flusher(self._work)())  # inside the session's greenlet

    def _after_commit(self, session: Session) -> None:
        if self._work is not None and session.get_nested_transaction() is None:
            self._out.dispatcher.sweep()

    def _undone(self, _: Session, transaction: SessionTransaction) -> None:
        if self._work is not None and transaction in self._marks:
            self._work.back_to(self._marks[transaction])

    def _ended(self, _: Session, transaction: SessionTransaction) -> None:
        if transaction.parent is None:
            self._work = None
            self._marks.clear()


class Client:
    """Acts in the name of `name`: its database, its outbox.

    Args:
        name: The service.
        settings: Default: from the environment.
        transport: An open one to share; default: one of its own.

    Attributes:
        dead_letters: What failed in this service, to be read, edited, replayed and discarded.
        handlers: This service's handlers, to be paused and resumed.
    """

    def __init__(
        self, name: str, *, settings: Settings | None = None, transport: Transport | None = None, clock: Clock | None = None,
        chance: Chance | None = None,
    ) -> None:  # fmt: skip
        self._settings, chance = settings or load(), chance or SystemRandom()
        self._names, self._clock = Names(self._settings.prefix), clock or SystemClock()
        self._owns_transport = transport is None
        self._transport = transport or open_transport(self._settings.broker(), name=f"client of {name}", clock=self._clock)
        self._out = Outgoings(name, self._settings, self._transport, owners={}, clock=self._clock, chance=chance, is_alone=False)
        self._requester = Requester(self._transport, self._names, self._clock, chance)
        self.dead_letters = DeadLetters(self._out.database, self._settings, self._clock)
        self.handlers = HandlerControl(self._out.database)

    async def __aenter__(self) -> Self:
        if self._owns_transport:
            await self._transport.open()
        await self._out.start()
        await self._requester.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._requester.stop()
        await self._out.stop()
        if self._owns_transport:
            await self._transport.close()

    def lifespan(self, app: object) -> AbstractAsyncContextManager[None]:
        """`FastAPI(lifespan=client.lifespan)`."""

        @asynccontextmanager
        async def opened() -> AsyncIterator[None]:
            async with self:
                yield

        return opened()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Commits at the end of the block, then sends; rolls back where it raises."""
        async with self._out.transactions.begin() as work:
            yield Transaction(work)

    async def per_request(self) -> AsyncIterator[Transaction]:
        """`Depends(client.per_request, scope="function")`: one transaction per request, committed before the response.

        Without `scope="function"` FastAPI commits after the response has left.
        """
        async with self._out.transactions.begin() as work:
            yield Transaction(work)

    async def join(self, session: AsyncSession) -> Transaction:
        """Rows in your session's transaction, on this service's database; sent after your commit.

        What a savepoint took back is not sent, and nothing after your rollback. Join again for the next transaction.
        """
        if self not in session.info:
            session.info[self] = _Joined(session.sync_session, self._out)
        joined: _Joined = session.info[self]
        return Transaction(joined.work(await session.connection()), session)

    async def publish(self, event: Event) -> str:
        """Publish one event through the outbox; returns its id once committed."""
        async with self.transaction() as tx:
            return tx.publish(event)

    async def cancel(self, message_id: str) -> bool:
        """Take back a message of this service that was sent with `after=`; False where it has left, or never was.

        Taken back is taken back: a process that is about to send it either has it, and then this is False, or never gets it.
        """
        async with self.transaction() as tx:
            return await tx.cancel(message_id)

    async def ask(self, request: Command[R] | Query[R], *, timeout: Duration = 10) -> R:
        """Send a command or query and wait for its reply.

        Raises:
            Rejected: The service said no.
            Failed: It ran out of attempts; nothing was applied.
            TimedOut: No answer in time: a command may have happened.
            Unroutable: No queue is bound for it.
        """
        timeout_s = seconds(timeout)
        outgoing = asked(request, self._out.sender, reply_to=self._requester.reply_to, timeout_s=timeout_s)
        reply = await self._requester.ask(outgoing, request_id=outgoing.properties.message_id or "", timeout_s=timeout_s)
        return answer_in(request, reply)
