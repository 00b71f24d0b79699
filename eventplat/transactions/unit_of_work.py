"""Unit of work: claim, effects, outcome and outbox rows commit together, or none of them.

    async with transactions.begin(cause=envelope) as work:
        if await work.claim(consumer, handler=...):
            ...                       # the handler's rows, through work.session()
            work.publish(OrderPlaced(...))
    # committed: its letters are on their way

After the commit the letters go to dispatch, and answers to waiting processes leave at once. A commit whose
outcome is unknown dispatches, acks and counts nothing: redelivery and the relay decide.

Next: transactions.dispatch
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction, UOWTransaction

from eventplat.broker.transport import Delivery
from eventplat.errors import CommitUnknown, Malformed, NoDatabase
from eventplat.failpoints import failpoint
from eventplat.messages.codec import Properties
from eventplat.messages.envelope import Envelope
from eventplat.messages.message import Command, Event
from eventplat.storage.database import Database
from eventplat.storage.session import HandlerSession, open_late_session, open_session
from eventplat.transactions import inbox, outbox, pending
from eventplat.transactions.answers import Answers
from eventplat.transactions.attempts import error_record
from eventplat.transactions.dispatch import Dispatcher
from eventplat.transactions.letter import Letter
from eventplat.transactions.owner import Owner
from eventplat.transactions.relay import Relay
from eventplat.transactions.sender import Sender

logger = logging.getLogger(__name__)


Opening = Callable[[], Awaitable[AsyncConnection]]


class NotTaken(BaseException):  # no Exception: a handler that catches those must not go on
    """A transaction that began late found its message taken by another."""


class UnitOfWork:
    """One transaction, from claim to commit. Made by `Transactions.begin`.

    Args:
        connection: None where the service has no database: what needs one raises `NoDatabase`.
        opening: Begins the transaction, where that is left for later: awaited when the connection is first needed.
    """

    def __init__(
        self, connection: AsyncConnection | None, sender: Sender, cause: Envelope | None, *, opening: Opening | None = None
    ) -> None:
        self._connection, self.sender, self.cause, self._opening = connection, sender, cause, opening
        self._session: AsyncSession | None = None
        self._letters: list[Letter] = []
        self._answers: list[Letter] = []
        self.on_committed: list[Callable[[], None]] = []

    @property
    def connection(self) -> AsyncConnection:
        """The connection of this transaction."""
        if self._connection is None:
            raise NoDatabase(f"{self.sender.service} has no database")
        return self._connection

    @property
    def has_begun(self) -> bool:
        """Whether a transaction is open: then nobody else may be waited for."""
        return self._connection is not None

    async def begin(self) -> AsyncConnection:
        """The connection of this transaction, which begins now where it has not.

        Raises:
            NotTaken: It was begun late, and the message has been taken by another meanwhile.
        """
        if self._connection is None and self._opening is not None:
            self._connection = await self._opening()
        return self.connection

    def session(self) -> AsyncSession:
        """The handler's session, in this transaction; opened when first asked for."""
        if self._session is None:
            is_late = self._connection is None and self._opening is not None
            self._session = open_late_session(self.begin) if is_late else open_session(self.connection)
            self._session.info[UnitOfWork] = self
        return self._session

    async def claim(self, consumer: str, *, handler: str | None) -> bool:
        """See `inbox.claim`."""
        assert self.cause is not None  # noqa: S101 - only a delivered message is claimed
        claimed = await inbox.claim(self.connection, consumer, self.cause, handler=handler)
        failpoint("consumer.after_claim")
        return claimed

    async def claim_many(self, consumer: str, envelopes: Sequence[Envelope], *, handler: str) -> frozenset[str]:
        """See `inbox.claim_many`."""
        claimed = await inbox.claim_many(self.connection, consumer, envelopes, handler=handler)
        failpoint("consumer.after_claim")
        return claimed

    def written(self) -> tuple[int, int, int, int]:
        """Grows with whatever the session has written or is about to write; only differences mean anything."""
        if self._session is None:
            return 0, 0, 0, 0
        session = self._session.sync_session
        return session.info.get(_WRITES, 0), len(session.new), len(session.dirty), len(session.deleted)

    def publish(self, event: Event, *, after_s: float = 0) -> str:
        """An outbox row for `event`; returns its id."""
        return self.post(self.sender.letter(event, cause=self.cause, after_us=_microseconds(after_s)))

    def send(self, command: Command[object], *, after_s: float = 0) -> str:
        """An outbox row for `command`; returns its id."""
        return self.post(self.sender.letter(command, cause=self.cause, after_us=_microseconds(after_s)))

    def send_raw(self, exchange: str, routing_key: str, body: bytes, properties: Properties, *, after_s: float = 0) -> str:
        """An outbox row for another system; returns its id."""
        return self.post(self.sender.raw(exchange, routing_key, body, properties, after_us=_microseconds(after_s)))

    def post(self, letter: Letter) -> str:
        """Let `letter` leave with this transaction; returns its id."""
        if self._connection is None and self._opening is None and letter.after_us is not None:
            raise NoDatabase(f"{self.sender.service} has no database to keep a delayed message in")
        self._letters.append(letter)
        return letter.envelope.id

    def answer(self, request: Envelope, type_: str, body: bytes) -> None:
        """Reply to `request`, if it waits for one: to a process after the commit, to a service through the outbox."""
        if request.reply_to is None:
            return
        letter = self.sender.answer(request, type_, body)
        (self._answers if self.sender.waits(request.reply_to) else self._letters).append(letter)

    def leaving(self) -> tuple[list[Letter], list[Letter]]:
        """What is to leave: letters, and answers to waiting processes."""
        return self._letters, self._answers

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call it once this transaction has committed, and not where it is rolled back."""
        self.on_committed.append(call)

    def mark(self) -> tuple[int, int]:
        """Where the letters stand now, before something that may be taken back."""
        return len(self._letters), len(self._answers)

    def back_to(self, mark: tuple[int, int]) -> None:
        """Forget the letters since `mark`: what asked for them was rolled back to a savepoint."""
        del self._letters[mark[0] :]
        del self._answers[mark[1] :]

    async def cancel(self, message_id: str) -> bool:
        """Take back a message of this service that still waits for its time."""
        for letter in self._letters:
            if letter.envelope.id == message_id:
                self._letters.remove(letter)
                return True
        return await outbox.cancel(await self.begin(), message_id)

    async def flush(self, owner: str) -> tuple[list[Letter], list[Letter]]:
        """Write what is in the session and the outbox rows; returns letters and answers."""
        if self._session is not None:
            await self._session.flush()
            failpoint("consumer.mid_handler")
        letters = await outbox.append(await self.begin(), self._letters, owner)
        if self._session is not None:
            await self._session.close()
        return letters, self._answers


_WRITES = "eventplat writes"


@event.listens_for(HandlerSession, "do_orm_execute")
def _executed(state: ORMExecuteState) -> None:
    if not state.is_select:
        state.session.info[_WRITES] = state.session.info.get(_WRITES, 0) + 1


@event.listens_for(HandlerSession, "after_flush")
def _flushed(session: Session, _: UOWTransaction) -> None:
    session.info[_WRITES] = session.info.get(_WRITES, 0) + 1


@event.listens_for(HandlerSession, "after_transaction_create")
def _savepoint_begun(session: Session, transaction: SessionTransaction) -> None:
    if transaction.nested and UnitOfWork in session.info:
        session.info[transaction] = session.info[UnitOfWork].mark()


@event.listens_for(HandlerSession, "after_soft_rollback")
def _savepoint_undone(session: Session, transaction: SessionTransaction) -> None:
    if transaction.nested and transaction in session.info:  # what was written inside it is not sent either
        session.info[UnitOfWork].back_to(session.info[transaction])


@dataclass
class _Leaving:
    letters: list[Letter] = field(default_factory=list)
    answers: list[Letter] = field(default_factory=list)
    calls: list[Callable[[], None]] = field(default_factory=list)


class Transactions:
    """Begins units of work in one service's database, and lets their letters leave."""

    def __init__(
        self, database: Database, sender: Sender, owner: Owner, dispatcher: Dispatcher, relay: Relay, answers: Answers
    ) -> None:
        self.database, self.sender, self.answers = database, sender, answers
        self._owner, self._dispatcher, self._relay = owner, dispatcher, relay

    @asynccontextmanager
    async def begin(self, cause: Envelope | None = None) -> AsyncIterator[UnitOfWork]:
        """A unit of work that commits at the end of the block.

        Raises:
            CommitUnknown: The connection was lost during COMMIT; the rows are looked for again.
            DatabaseUnavailable: Nothing was written.
        """
        owner, left = self._owner.id, _Leaving()
        try:
            # what follows a commit is its callback: a handler cancelled in that moment has committed all the same
            async with self.database.transaction(on_commit=lambda: self._leave(left, owner)) as connection:
                work = UnitOfWork(connection, self.sender, cause)
                yield work
                left.letters, left.answers = await work.flush(owner)
                left.calls = work.on_committed
                failpoint("consumer.before_commit")
        except CommitUnknown:
            self._dispatcher.sweep()
            raise

    @asynccontextmanager
    async def begin_late(self, cause: Envelope, take: Callable[[UnitOfWork], Awaitable[bool]]) -> AsyncIterator[UnitOfWork]:
        """As `begin`, but nothing is open until the block first needs the database, at its end at the latest.

        Args:
            take: Makes the message this transaction's own, first of all in it; False where it is another's.

        Raises:
            NotTaken: It is another's.
        """
        owner, left, is_lost = self._owner.id, _Leaving(), False
        try:
            async with AsyncExitStack() as stack:

                async def opening() -> AsyncConnection:
                    nonlocal is_lost
                    if is_lost:  # and the handler went on all the same
                        raise NotTaken
                    transaction = self.database.transaction(on_commit=lambda: self._leave(left, owner))
                    connection = await stack.enter_async_context(transaction)
                    if not await take(UnitOfWork(connection, self.sender, cause)):
                        is_lost = True
                        raise NotTaken
                    return connection

                work = UnitOfWork(None, self.sender, cause, opening=opening)
                yield work
                left.letters, left.answers = await work.flush(owner)
                left.calls = work.on_committed
                failpoint("consumer.before_commit")
        except CommitUnknown:
            self._dispatcher.sweep()
            raise

    async def park(self, handler: str, delivery: Delivery, error: Malformed) -> None:
        """Keep what is not a message as dead, with the reason: a pipeline would meet it again and again."""
        logger.error("%s parked what is not a message: %s", handler, error)
        async with self.begin() as work:
            await pending.park(
                work.connection, handler, self.sender.new_id(), delivery.properties, delivery.body,
                exchange=delivery.exchange, routing_key=delivery.routing_key,
                error=error_record(error, 0, self.sender.clock.time_us()),
            )  # fmt: skip

    def joined(self, connection: AsyncConnection) -> UnitOfWork:
        """A unit of work inside somebody else's transaction: `flusher` writes its rows before their commit."""
        return UnitOfWork(connection, self.sender, None)

    def flusher(self, work: UnitOfWork) -> Callable[[], Awaitable[object]]:
        """What to await before the other's commit."""
        return partial(work.flush, self._owner.id)

    def _leave(self, left: _Leaving, owner: str) -> None:
        failpoint("consumer.after_commit")
        self._dispatcher.dispatch([(letter.envelope.id, letter.outgoing()) for letter in left.letters if letter.after_us is None], owner)
        if any(letter.after_us is not None for letter in left.letters):
            self._relay.wake()
        for letter in left.answers:
            self.answers.send(letter)
        for call in left.calls:
            call()


def _microseconds(after_s: float) -> int | None:
    return int(after_s * 1_000_000) if after_s > 0 else None
