"""Calling a handler: who asks, what it is given, how long it may take, what it answers.

`async def` handlers run on the loop; `def` handlers in a thread, with a real Session of the same
transaction whose I/O happens on the loop. Middleware runs around the handler, inside the transaction.

Next: sagas.orchestrator
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from eventplat.clock import Clock
from eventplat.errors import BadHandler, BadToken, HandlerCancelled, Rejected
from eventplat.lifecycle import within
from eventplat.messages import versions
from eventplat.messages.codec import check_size
from eventplat.messages.envelope import FAILED, RUNNING, Envelope
from eventplat.messages.message import Message
from eventplat.sagas.orchestrator import Orchestrator
from eventplat.security.grant import GrantVerifier
from eventplat.security.policies import missing_scopes
from eventplat.security.principal import ANONYMOUS, Principal
from eventplat.service.asking import Asker
from eventplat.service.context import Context, SyncContext
from eventplat.service.endpoint import Endpoint
from eventplat.service.handler import Tick
from eventplat.service.service import Service
from eventplat.settings import Settings
from eventplat.storage.session import run_in_thread
from eventplat.transactions import pending
from eventplat.transactions.attempts import newest_error
from eventplat.transactions.inbox import Settled
from eventplat.transactions.unit_of_work import Transactions, UnitOfWork

logger = logging.getLogger(__name__)

GATEWAY = "gateway"  # the app_id of hops whose caller is a user


class Caller:
    """Runs the functions of one service."""

    def __init__(
        self,
        service: Service[Any],
        endpoints: Sequence[Endpoint],
        transactions: Transactions | None,
        verifier: GrantVerifier | None,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self.service = service
        self.asker: Asker | None = None
        self.state: Any = None
        self._verifier, self._settings, self._clock = verifier, settings, clock
        self._by_type = {endpoint.wire_type: endpoint for endpoint in endpoints}
        sagas = [endpoint for endpoint in endpoints if endpoint.handler.is_saga]
        self.orchestrator: Orchestrator | None = None
        if sagas and transactions is not None:
            self.orchestrator = Orchestrator(service.name, transactions, self._call_local, clock)
        for endpoint in sagas:
            handler = endpoint.handler
            self.orchestrator.add(  # type: ignore[union-attr]
                endpoint.identity, handler.message, handler.function,
                id_field=handler.saga_id, version=handler.saga_version, timeout_s=handler.saga_timeout_s,
            )  # fmt: skip

    async def start(self) -> None:
        if self.orchestrator is not None:
            await self.orchestrator.start()

    async def stop(self) -> None:
        if self.orchestrator is not None:
            await self.orchestrator.stop()

    async def call(self, endpoint: Endpoint, message: Message, envelope: Envelope, work: UnitOfWork, *, attempt: int) -> bytes | None:
        """Run the handler of `message` in `work`.

        Returns:
            The reply's bytes; None for an event, and for a saga, which answers when it ends.

        Raises:
            Rejected: The handler, or a missing scope, says no.
            TooLarge: The reply is over the limits of a message.
            TimeoutError: It did not return within its timeout.
        """
        principal = self.authorise(endpoint, envelope) if endpoint.handler.foreign is None else ANONYMOUS
        if endpoint.handler.is_saga:
            assert self.orchestrator is not None  # noqa: S101 - made where a handler is a saga
            await self.orchestrator.begin(work, endpoint.identity, message, envelope)
            return None
        reply = await self._run(endpoint, message, envelope, work, principal, attempt)
        if endpoint.handler.message.kind == "event":
            return None
        outcome = endpoint.replies.dump_json(reply)
        check_size(outcome)  # here it fails and says so; on the wire its reader would drop it
        return outcome

    def authorise(self, endpoint: Endpoint, envelope: Envelope) -> Principal:
        """Who began this work, if the sender of this hop may ask `endpoint` for it.

        Raises:
            Rejected: 403, it may not, or is not who it says.
        """
        sender = self._sent_by(envelope)
        principal = self._granted_to(envelope, is_users=sender == GATEWAY)
        if not endpoint.handler.requires:
            return principal
        if sender == GATEWAY:
            asking = principal
        else:
            scopes = self._settings.service_scopes.get(sender or "", () if self._settings.profile == "production" else None)
            if scopes is None:
                return principal  # between the services of one developer nothing is configured
            asking = Principal(f"service:{sender}", frozenset(scopes))
        if missing := missing_scopes(asking, endpoint.handler.requires):
            raise Rejected("forbidden", status=403, missing=sorted(missing))
        return principal

    async def tick(self, tick: Tick, envelope: Envelope, work: UnitOfWork, token: int) -> None:
        """Run a periodic function; `token` is its fencing token."""
        context: Context[Any] = Context(
            work, state=self.state, envelope=envelope, principal=ANONYMOUS, now=self._clock.now(), consumer=tick.name
        )
        context.fencing_token = token
        await tick.function(context)

    async def recorded(self, work: UnitOfWork, command_id: str, settled: Settled) -> tuple[str, bytes]:
        """The answer that stands for a settled command: a reply's type and body. A saga's stands in its own row."""
        if settled.state == "done" and settled.outcome is None and self.orchestrator is not None:
            outcome = await self.orchestrator.outcome(work.connection, command_id)
            if outcome is not None:
                return outcome
        return settled.reply_type, settled.outcome if settled.outcome is not None else b"null"

    async def unsettled(self, work: UnitOfWork, command_id: str) -> tuple[str, bytes]:
        """What became of a command that is not settled: out of attempts, or still on its way."""
        dead = await pending.dead_letter(work.connection, command_id)
        if dead is None:
            return RUNNING, b"{}"
        newest = newest_error(dead.errors) or {"text": "unknown", "code": None, "type": "unknown"}
        return FAILED, json.dumps({"error": newest["text"], "code": newest["code"] or newest["type"]}).encode()

    async def _call_local(self, type_: str, body: bytes, message: Message | None, envelope: Envelope, work: UnitOfWork) -> bytes | None:
        endpoint = self._by_type.get(type_)
        if endpoint is None or endpoint.handler.is_saga:
            raise BadHandler(f"{self.service.name} has no handler of {type_} that can run inside its saga")
        newest = endpoint.handler.message
        asked = versions.read(newest, type_, body) if message is None else versions.lift(message, newest)
        return await self.call(endpoint, asked, envelope, work, attempt=1)

    async def _run(
        self, endpoint: Endpoint, message: Message, envelope: Envelope, work: UnitOfWork, principal: Principal, attempt: int
    ) -> Any:
        given: dict[str, Any] = {
            "state": self.state, "envelope": envelope, "principal": principal, "now": self._clock.now(),
            "consumer": endpoint.identity, "attempt": attempt, "asker": self.asker,
        }  # fmt: skip
        handler = endpoint.handler
        innermost: Callable[[Message, Context[Any]], Coroutine[Any, Any, Any]] = handler.function
        if not handler.is_async:
            innermost = partial(_in_thread, handler.function, SyncContext(work, **given), work)
        for middleware in reversed(self.service.middleware):
            innermost = partial(_around, middleware, innermost)
        try:
            return await within(handler.timeout_s, innermost(message, Context(work, **given)))
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise  # this process stops
            raise HandlerCancelled(f"{endpoint.identity} was cancelled from inside") from cancelled

    def _sent_by(self, envelope: Envelope) -> str | None:
        """The service, or "gateway", that sent this hop.

        `app_id` is what the sender says; `user_id` is validated by RabbitMQ. Where each service has a broker user of its own
        (settings: broker_users) the two must fit. Where all share one user, whoever has its password is trusted with every name.

        Raises:
            Rejected: 403, they do not fit.
        """
        users = self._settings.broker_users
        if users and (envelope.user_id is None or users.get(envelope.app_id or "") != envelope.user_id):
            detail = f"{envelope.app_id} is not the broker user {envelope.user_id}"
            logger.warning("refused %s: %s, says EVENTPLAT_BROKER_USERS", envelope.type, detail)
            raise Rejected("wrong_sender", status=403, detail=detail)
        return envelope.app_id

    def _granted_to(self, envelope: Envelope, *, is_users: bool) -> Principal:
        """Who began this work; a user's own hop needs a grant, for this very message."""
        if self._verifier is None or (envelope.grant is None and not is_users):
            return ANONYMOUS
        try:
            return self._verifier.verify(envelope.grant or "", operation=envelope.id if is_users else None)
        except BadToken:  # forged, or signed by another gateway: it will not become valid by trying again
            raise Rejected("bad_grant", status=403) from None


async def _around(middleware: Any, call_next: Any, message: Message, context: Context[Any]) -> Any:
    return await middleware(message, context, call_next)


async def _in_thread(
    function: Callable[..., Any], context: SyncContext[Any], work: UnitOfWork, message: Message, _: Context[Any]
) -> Any:
    return await run_in_thread(work.session(), partial(_with_session, function, message, context))


def _with_session(function: Callable[..., Any], message: Message, context: SyncContext[Any], session: Any) -> Any:
    context._session = session  # noqa: SLF001 - given by the platform, read by the handler
    return function(message, context)
