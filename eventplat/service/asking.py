"""Asking: a question or command of this process to another service, and what its answer says.

A handler may ask as long as no transaction is open (`ctx.ask`): one that waits for another service while it holds a
connection, or SQLite's one writer, waits for ever as soon as the other one needs the same.

Next: routing.request_reply
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, TypeVar

from eventplat.broker.topology import COMMANDS, QUERIES, owner_of, routing_key
from eventplat.broker.transport import Outgoing, Transport
from eventplat.errors import Failed, Rejected, TimedOut
from eventplat.messages.codec import parse, to_properties
from eventplat.messages.envelope import DONE, FAILED, REJECTED, Envelope
from eventplat.messages.message import Command, Query
from eventplat.routing.request_reply import Requester
from eventplat.transactions.sender import Sender

R = TypeVar("R")


class Asker:
    """Asks for the handlers of one service; its reply queue is made with the first question."""

    def __init__(self, transport: Transport, sender: Sender) -> None:
        self._sender = sender
        self._requester = Requester(transport, sender.names, sender.clock, sender.chance)
        self._is_started, self._starting = False, asyncio.Lock()

    async def stop(self) -> None:
        if self._is_started:
            await self._requester.stop()

    async def ask(self, query: Query[R], *, cause: Envelope, timeout_s: float) -> R:
        """The owner's answer to `query`, asked in the handling of `cause`; as `Client.ask`."""
        async with self._starting:
            if not self._is_started:
                await self._requester.start()
                self._is_started = True
        outgoing = asked(query, self._sender, reply_to=self._requester.reply_to, timeout_s=timeout_s, cause=cause)
        reply = await self._requester.ask(outgoing, request_id=outgoing.properties.message_id or "", timeout_s=timeout_s)
        return answer_in(query, reply)


def asked(
    request: Command[Any] | Query[Any], sender: Sender, *, reply_to: str, timeout_s: float, cause: Envelope | None = None
) -> Outgoing:
    """`request` as it is sent; under a correlation id of its own, by which its asker knows the answer."""
    kind, is_query = type(request), request.kind == "query"
    owner = owner_of(kind, sender.owners.get(kind))
    own = sender.new_id()
    envelope = Envelope(
        id=own,
        type=kind.wire.type_under(owner),
        body=request.to_bytes(),
        correlation_id=own,
        causation=None if cause is None else cause.id,
        reply_to=reply_to,
        app_id=sender.service,
        user_id=sender.user_id,
        key=request.key,
        deadline_ms=sender.clock.time_us() // 1_000 + int(timeout_s * 1_000) if is_query else None,
        grant=None if cause is None else cause.grant,
        traceparent=None if cause is None else cause.traceparent,
    )
    properties = to_properties(envelope, expiration_ms=int(timeout_s * 1_000) if is_query else None)
    exchange = sender.names.exchange(QUERIES if is_query else COMMANDS)
    return Outgoing(exchange, routing_key(kind, owner, request.key), properties, envelope.body, persistent=not is_query)


def answer_in(request: Command[R] | Query[R], reply: Envelope) -> R:
    """What `reply` answers to `request`, or the exception that it stands for.

    Raises:
        Rejected: The service said no.
        Failed: It ran out of attempts; nothing was applied.
        TimedOut: It will not answer.
    """
    if reply.type != DONE:
        raise failure(reply)
    answer: R = parse(type(request).reply_adapter(), reply.body)
    return answer


def failure(reply: Envelope) -> Exception:
    """The exception that a reply other than DONE stands for."""
    facts: dict[str, Any] = json.loads(reply.body or b"{}")
    if reply.type == REJECTED:
        return Rejected(facts.get("reason", "rejected"), status=facts.get("status", 409), **facts.get("facts", {}))
    if reply.type == FAILED:
        return Failed(f"{facts.get('error')} ({facts.get('code')})")
    return TimedOut(f"the answer was {reply.type}")
