"""Context: what a handler is given beside its message.

`ctx.db` is the one transaction: the inbox claim, the handler's rows and the outbox rows commit together.
A `def` handler gets a `SyncContext`: it runs in a thread, its `ctx.db` a real Session of the same transaction.

Next: service.pipeline
"""

from __future__ import annotations

from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic

import structlog
from sqlalchemy.util import await_only
from typing_extensions import TypeVar

from eventplat.errors import CallInsideTransaction
from eventplat.messages.envelope import Envelope
from eventplat.retry import Duration, seconds
from eventplat.sagas import store
from eventplat.sagas.steps import SagaView, view_of
from eventplat.security.principal import Principal
from eventplat.service.raw import SendsRaw
from eventplat.transactions.unit_of_work import UnitOfWork

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from eventplat.messages.message import Command, Event, Query
    from eventplat.service.asking import Asker

S = TypeVar("S", default=None)
R = TypeVar("R")


class _Shared(SendsRaw, Generic[S]):
    """What both kinds of handler see."""

    def __init__(
        self, work: UnitOfWork, *, state: S, envelope: Envelope, principal: Principal, now: datetime, consumer: str, attempt: int = 1,
        asker: Asker | None = None,
    ) -> None:  # fmt: skip
        self._work, self._consumer, self._asker = work, consumer, asker
        self.state: S = state
        self.envelope = envelope
        self.principal = principal
        self.now = now
        self.attempt = attempt
        self.idempotency_key = f"{consumer}:{envelope.id}"
        self.fencing_token: int | None = None

    @cached_property
    def log(self) -> Any:
        """A structlog logger that says which message this is."""
        bound = {"message_id": self.envelope.id, "correlation_id": self.envelope.correlation_id}
        return structlog.get_logger(self._consumer).bind(**bound)

    def publish(self, event: Event, *, after: Duration = 0) -> str:
        """An outbox row for `event`, sent after the commit; returns its id.

        Args:
            after: Send it this much later; it then has no place in its key's order.
        """
        return self._work.publish(event, after_s=seconds(after))

    def send(self, command: Command[Any], *, after: Duration = 0) -> str:
        """An outbox row for `command`, sent after the commit; nobody waits for its answer. Returns its id."""
        return self._work.send(command, after_s=seconds(after))


class Context(_Shared[S]):
    """For `async def` handlers.

    Attributes:
        state: What the service's lifespan yielded.
        principal: Who started this, verified.
        envelope: Id, correlation, causation, key and headers of the message.
        idempotency_key: The same for every attempt: hand it to systems outside the database.
        fencing_token: In periodic functions: hand it to systems outside the database.
        now: When this attempt began, UTC.
        attempt: 1 for the first.
    """

    @property
    def db(self) -> AsyncSession:
        """The session of this transaction. It commits by itself when the handler returns."""
        return self._work.session()

    async def ask(self, query: Query[R], *, timeout: Duration = 5) -> R:
        """Ask another service and wait for its answer: in queries, without a database, or before a late transaction begins.

        Raises:
            CallInsideTransaction: A transaction is open, in which nobody may be waited for.
            Rejected: The service said no.
            Failed: Its handler failed.
            TimedOut: No answer in time.
            Unroutable: No queue is bound for it.
        """
        if self._work.has_begun or self._asker is None:
            raise CallInsideTransaction(f"{self._consumer} asks {type(query).__name__} while its transaction is open")
        return await self._asker.ask(query, cause=self.envelope, timeout_s=seconds(timeout))

    async def saga(self, saga_id: str, *, started_by: type[Command[Any]] | None = None) -> SagaView | None:
        """A saga of this service, its state and history; None where there is no such saga.

        Args:
            started_by: The command that starts it, where sagas of several commands go by the same id; default: the oldest.
        """
        for row in await store.find(await self._work.begin(), saga_id):
            if started_by is None or row.type.rpartition(".v")[0] == f"{self._work.sender.service}.{started_by.wire.name}":
                return view_of(row, await store.steps(self._work.connection, row.command_id))
        return None

    async def cancel(self, message_id: str) -> bool:
        """Take back a message sent with `after=` that still waits; False where it has left."""
        return await self._work.cancel(message_id)


class SyncContext(_Shared[S]):
    """For `def` handlers, which run in a thread: as Context, with a real Session."""

    _session: Session

    @property
    def db(self) -> Session:
        """The session of this transaction; its I/O happens on the loop."""
        return self._session

    def cancel(self, message_id: str) -> bool:
        """Take back a message sent with `after=` that still waits; False where it has left."""
        return await_only(self._work.cancel(message_id))  # this thread's greenlet hands it to the loop
