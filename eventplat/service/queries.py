"""Queries: questions without effect. Transient, read-only, no inbox.

An expired question is not answered, since nobody waits any more. The gateway's question "what became of
this command?" is answered here too, from the inbox's recorded outcome.

Next: routing.request_reply
"""

from __future__ import annotations

import json
import logging
from contextlib import AsyncExitStack
from functools import partial
from typing import Annotated

from pydantic import AfterValidator, BaseModel, TypeAdapter

from eventplat.broker.transport import Delivery
from eventplat.clock import Clock
from eventplat.errors import EventplatError, Malformed, Rejected
from eventplat.messages.codec import parse, to_envelope
from eventplat.messages.envelope import DONE, FAILED, REJECTED, Envelope
from eventplat.messages.ids import is_id
from eventplat.observability.logs import logged_as
from eventplat.service.call import Caller
from eventplat.service.endpoint import Endpoint
from eventplat.service.pipeline import rejection
from eventplat.storage.database import Database
from eventplat.storage.failures import is_transient
from eventplat.transactions import inbox
from eventplat.transactions.unit_of_work import Transactions, UnitOfWork

logger = logging.getLogger(__name__)


def _is_id(text: str) -> str:
    if not is_id(text):
        raise ValueError("it is not a valid UUID")
    return text


class Operation(BaseModel):
    """Which command is asked about."""

    command_id: Annotated[str, AfterValidator(_is_id)]


_OPERATION = TypeAdapter(Operation)


class Queries:
    """Answers the queries of one service."""

    def __init__(self, transactions: Transactions, caller: Caller) -> None:
        self._transactions, self._caller = transactions, caller
        self._database: Database = transactions.database
        self._clock: Clock = transactions.sender.clock

    async def process(self, endpoint: Endpoint | None, delivery: Delivery) -> None:
        """Answer one question; `endpoint` None: what became of a command."""
        try:
            envelope = to_envelope(delivery.properties, delivery.body)
            with logged_as(envelope, "operation" if endpoint is None else endpoint.identity):
                answer = await self._in_time(endpoint, envelope)
        except Malformed as error:
            identity = f"{self._caller.service.name}.operation" if endpoint is None else endpoint.identity
            await self._transactions.park(identity, delivery, error)
        else:
            if answer is not None and envelope.reply_to is not None:
                self._transactions.answers.send(self._transactions.sender.answer(envelope, *answer))
        delivery.ack()

    async def _in_time(self, endpoint: Endpoint | None, envelope: Envelope) -> tuple[str, bytes] | None:
        """The answer; None once nobody waits for it any more. A database that is away is waited for."""
        wait_s = 0.05
        while not envelope.has_expired(self._clock.time_us()):
            try:
                return await self._answer(endpoint, envelope)
            except Exception as error:
                if not is_transient(error) or envelope.deadline_ms is None:
                    raise
                logger.info("waiting %.2f s for the database: %s", wait_s, error)
                await self._clock.sleep(wait_s)
                wait_s = min(wait_s * 2, 1.0)
        return None

    async def _answer(self, endpoint: Endpoint | None, envelope: Envelope) -> tuple[str, bytes]:
        try:
            async with AsyncExitStack() as stack:
                opening = partial(stack.enter_async_context, self._database.transaction(read_only=True))
                # only an `async def` can ask, and is not to hold a connection meanwhile
                work = UnitOfWork(None, self._transactions.sender, envelope, opening=opening)
                if endpoint is None or not endpoint.handler.is_async:
                    await work.begin()
                if endpoint is None:
                    return await self._operation(work, envelope)
                message = endpoint.read(envelope)
                outcome = await self._caller.call(endpoint, message, envelope, work, attempt=1)
                return DONE, b"null" if outcome is None else outcome
        except Rejected as rejected:
            return REJECTED, rejection(rejected)
        except Malformed as error:
            if envelope.reply_to is None:
                raise
            return REJECTED, rejection(Rejected("invalid", status=422, detail=str(error.args[0])))
        except Exception as error:
            if is_transient(error):
                raise
            logger.exception("a question of type %s failed", envelope.type)
            code = error.code if isinstance(error, EventplatError) else type(error).__name__
            return FAILED, json.dumps({"error": str(error)[:1_000], "code": code}).encode()

    async def _operation(self, work: UnitOfWork, envelope: Envelope) -> tuple[str, bytes]:
        if envelope.type != f"{self._caller.service.name}.operation.v1":
            raise Malformed(f"the type is {envelope.type!r}, which is no question about an operation")
        command_id: str = parse(_OPERATION, envelope.body).command_id
        settled = await inbox.look_up(work.connection, self._caller.service.name, command_id)
        if settled is None:
            return await self._caller.unsettled(work, command_id)
        return await self._caller.recorded(work, command_id, settled)
