"""Orchestrator: load, decide, save, send - all in one transaction.

Whatever happens to a saga (its command, a reply, a timer, a word of the operator) locks its row, adds one record
to its history, asks the pure core what follows, and commits the decision with the commands it sends. Nothing is
kept in memory: any instance goes on after a kill, and a copy of a reply finds its step settled.

Timers     rows of the same transaction; a step that is settled takes its timers with it.
Operator   a bug or a divergence sends nothing and undoes nothing: the saga waits, and is tried again at every
           start of its service, that is with every deploy, and every ten minutes. Past its deadline it waits for
           `resume` or `cancel`; answers are recorded meanwhile.
Unknown    in a rolling deploy an answer may reach an instance that does not know the saga: it records the answer,
           and a timer lets an instance that knows it go on.

Source     Garcia-Molina & Salem, Sagas (1987); Richardson, Microservices Patterns (2018), 4.

Next: sagas.execution, sagas.timers
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from eventplat.broker.transport import Delivery
from eventplat.clock import Clock
from eventplat.errors import Malformed, Rejected
from eventplat.failpoints import failpoint
from eventplat.lifecycle import Loop
from eventplat.messages.codec import to_envelope
from eventplat.messages.envelope import DONE, FAILED, REJECTED, RUNNING, VOID, Envelope
from eventplat.messages.message import Message
from eventplat.sagas import store
from eventplat.sagas.execution import CallLocal, Definition, Execution, Running
from eventplat.sagas.history import UNDO, Answered, Cancelled, News, Outcome, is_news
from eventplat.sagas.replay import PROBLEM_CHARS_MAX
from eventplat.sagas.store import Timer
from eventplat.sagas.timers import Timers
from eventplat.storage.database import Database
from eventplat.storage.failures import is_transient
from eventplat.storage.tables import now_us
from eventplat.transactions.unit_of_work import Transactions, UnitOfWork

logger = logging.getLogger(__name__)

DEADLINE_S = 7 * 24 * 3_600.0
OVERDUE = "it has not ended before its deadline"
TRY_AGAIN_S = 600.0       # what waits for the operator, after the first try at the start
OUTCOMES: dict[str, Outcome] = {DONE: "done", REJECTED: "rejected", FAILED: "failed", VOID: "void"}

Reliably = Callable[[Callable[[], Awaitable[None]]], Awaitable[bool]]
Load = Callable[[AsyncConnection], Awaitable[tuple[Running, News] | None]]


class Orchestrator:
    """Runs the sagas of one service."""

    def __init__(self, service: str, transactions: Transactions, call_local: CallLocal, clock: Clock) -> None:
        self._service, self._transactions, self._sender, self._clock = service, transactions, transactions.sender, clock
        self._database: Database = transactions.database
        self._definitions: dict[str, Definition] = {}
        self._execution = Execution(self._definitions, self._sender, call_local, clock)
        self._timers = Timers(service, transactions.database, self._definitions, self._fire, clock)
        self._untried: deque[str] = deque()
        self._retries = Loop(f"{service} sagas that wait for the operator", self._try_next, every_s=TRY_AGAIN_S, clock=clock)

    def add(self, name: str, message: type[Message], function: Callable[..., Any], *, id_field: str | None, version: int,
            timeout_s: float | None) -> None:  # fmt: skip
        """Take in a declared saga."""
        self._definitions[name] = Definition(name, message, function, id_field, version, timeout_s)

    async def start(self) -> None:
        """Watch the timers, and try the sagas that wait for a fixed deploy."""
        await self._timers.start()
        await self._retries.start()

    async def stop(self) -> None:
        await self._retries.stop()
        await self._timers.stop()

    # --- what happens to a saga -------------------------------------------------------------------

    async def begin(self, work: UnitOfWork, name: str, message: Message, envelope: Envelope) -> None:
        """Start the saga that `message` asks for, in the transaction that claimed it.

        Raises:
            Rejected: "already_started": another command has started the saga of this id.
        """
        definition = self._definitions[name]
        saga_id = envelope.id if definition.id_field is None else str(getattr(message, definition.id_field))
        deadline_us = int((definition.timeout_s or DEADLINE_S) * 1_000_000)
        row = await store.start(work.connection, saga_id, name, definition.version, envelope, deadline_us)
        if row is None:
            raise Rejected("already_started", saga=saga_id)
        running = self._execution.begun(row)
        running.changes.set_timer(self._sender.new_id(), "deadline", after_us=deadline_us)
        await self._execution.go_on(work, running, None)

    async def process(self, reliably: Reliably, delivery: Delivery) -> None:
        """Take one reply from the service's durable reply queue."""
        try:
            reply = _reply(delivery)
        except Malformed as error:
            action = partial(self._transactions.park, f"{self._service}.replies", delivery, error)
        else:
            action = partial(self._take_reply, reply)
        if await reliably(action):
            delivery.ack()
        else:
            delivery.requeue()

    async def outcome(self, connection: AsyncConnection, command_id: str) -> tuple[str, bytes] | None:
        """What became of the saga that `command_id` started: a reply's type and body; None where it started none."""
        row = await store.by_command(connection, command_id)
        if row is None:
            return None
        if row.ended_us is None:
            return RUNNING, b"{}"
        return row.outcome_type, row.outcome or b"null"

    async def _take_reply(self, reply: Envelope) -> None:
        outcome = OUTCOMES.get(reply.type)
        if outcome is None or reply.causation is None:
            return  # "running": its answer comes when it ends

        async def load(connection: AsyncConnection) -> tuple[Running, News] | None:
            found = await self._execution.load_of_step(connection, reply.causation or "")
            if found is None:
                logger.warning("a reply to %s belongs to no saga step", reply.causation)
                return None
            running, path = found
            body = b"" if outcome == "done" and path.startswith(UNDO) else reply.body
            return running, Answered(path, outcome, body, self._clock.time_us())

        await self._happened(load)

    async def cancel(self, name: str, saga_id: str, *, within_s: float = DEADLINE_S) -> bool:
        """Let a saga stop and undo what is done; one that stands on a bug as well.

        Args:
            within_s: What an overdue saga gets to undo it.

        Returns:
            False where there is no such saga, or it has ended, was cancelled before, or is past its pivot.
        """
        saga = await self._command_of(name, saga_id)
        if saga is None:
            return False
        news = Cancelled(self._clock.time_us())

        async def load(connection: AsyncConnection) -> tuple[Running, News] | None:
            running = await self._execution.load(connection, saga)
            return None if running is None else (running, news)

        return await self._happened(load, within_s=within_s)

    async def resume(self, name: str, saga_id: str, *, within_s: float = DEADLINE_S) -> bool:
        """Let a saga in the operator state go on from its history, under a new deadline.

        Returns:
            False where no saga of this name and id stands in the operator state.
        """
        saga = await self._command_of(name, saga_id)
        return saga is not None and await self._try_again(saga, within_s=within_s)

    async def _command_of(self, name: str, saga_id: str) -> str | None:
        async with self._database.transaction(read_only=True) as connection:
            return await store.command_of(connection, name, saga_id)

    async def _happened(self, load: Load, *, within_s: float | None = None) -> bool:
        """Go on with the news that `load` brings with its saga, locked; False where it changes nothing."""
        is_heard, found = False, None
        try:
            async with self._transactions.begin() as work:
                found = await load(work.connection)
                if found is not None:
                    running, news = found
                    is_heard = running.row.ended_us is None and is_news(running.history, news)
                    if is_heard and within_s is not None and running.is_overdue:
                        await self._prolong(work, running, within_s)
                    if is_heard:
                        await self._execution.go_on(work, running, news)
                failpoint("saga.before_commit")
        except Exception as error:
            if is_transient(error) or found is None:
                raise
            await self._stand_still(found[0].row.command_id, found[1], error)
        failpoint("saga.after_commit")
        return is_heard

    async def _stand_still(self, saga: str, news: News | None, error: Exception, *, timer: Timer | None = None) -> None:
        """Keep the news, do nothing: a handler of this service failed inside the saga's transaction."""
        logger.exception("saga %s waits for the operator", saga, exc_info=error)
        async with self._transactions.begin() as work:
            running = await self._execution.load(work.connection, saga)
            if running is None:
                return
            if timer is not None and await store.claim_timer(work.connection, timer.id):
                news = self._execution.ending_of(running, timer)
            if news is not None and is_news(running.history, news):
                self._execution.record(running, news)
            await self._execution.save(work, running, state="operator", problem=f"{type(error).__name__}: {error}"[:PROBLEM_CHARS_MAX])

    # --- what waits for the operator --------------------------------------------------------------

    async def _try_next(self) -> float:
        if not self._untried:
            async with self._database.transaction(read_only=True) as connection:
                self._untried.extend(await store.waiting_for_operator(connection, list(self._definitions)))
        if self._untried:
            await self._try_again(self._untried[0])
            self._untried.popleft()
        return 0.0 if self._untried else TRY_AGAIN_S

    async def _try_again(self, saga: str, *, within_s: float | None = None) -> bool:
        """Go on from the history, should it stand in the operator state; past its deadline only `within_s` of now."""
        try:
            async with self._transactions.begin() as work:
                running = await self._execution.load(work.connection, saga)
                if running is None or running.row.state != "operator" or (running.is_overdue and within_s is None):
                    return False
                if within_s is not None:
                    await self._prolong(work, running, within_s)
                self._execution.ask_stuck_again(running)
                await self._execution.go_on(work, running, None)
        except Exception as error:
            if is_transient(error):
                raise
            await self._stand_still(saga, None, error)
        return True

    async def _prolong(self, work: UnitOfWork, running: Running, within_s: float) -> None:
        after_us = int(within_s * 1_000_000)
        await store.clear_deadline(work.connection, running.row.command_id)
        running.changes.set_timer(self._sender.new_id(), "deadline", after_us=after_us)
        running.changes.set(deadline_us=now_us() + after_us)
        running.is_overdue = False

    # --- timers -----------------------------------------------------------------------------------

    async def _fire(self, timer: Timer) -> bool:
        """Let a timer fire; False where another holds its saga, or was first."""
        try:
            async with self._transactions.begin() as work:
                running = await self._execution.load(work.connection, timer.subject, skip_locked=True)
                if running is None or not await store.claim_timer(work.connection, timer.id):
                    return False
                failpoint("saga.timer_claimed")
                if running.row.ended_us is None:
                    await self._time_has_come(work, running, timer)
        except Exception as error:
            if is_transient(error):
                raise
            await self._stand_still(timer.subject, None, error, timer=timer)
        return True

    async def _time_has_come(self, work: UnitOfWork, running: Running, timer: Timer) -> None:
        ending = self._execution.ending_of(running, timer)
        if timer.kind == "deadline":
            problem = OVERDUE if running.row.problem is None else f"{OVERDUE}; before that: {running.row.problem}"
            await self._execution.wait_for_operator(work, running, problem[:PROBLEM_CHARS_MAX])
        elif timer.kind == "resume":
            await self._execution.go_on(work, running, None)
        elif timer.kind == "again" and timer.path is not None:
            await self._execution.ask_again(work, running, timer.path)
        elif ending is not None and is_news(running.history, ending):
            await self._execution.go_on(work, running, ending)


def _reply(delivery: Delivery) -> Envelope:
    """What was delivered as a reply.

    Raises:
        Malformed: It is none.
    """
    reply = to_envelope(delivery.properties, delivery.body)
    if reply.type != RUNNING and reply.type not in OUTCOMES:
        raise Malformed(f"the type is {reply.type!r}, which is no reply's")
    if reply.causation is None:
        raise Malformed("the header causation is missing: it answers nothing")
    return reply
