"""Orchestrator: load, decide, save, send - all in one transaction.

Whatever happens to a saga (its command, a reply, a timer) locks its row, adds one record to its history,
asks the pure core what follows, and commits the decision with the commands it sends. Nothing is kept in
memory: any instance goes on after a kill, and a copy of a reply finds its step settled.

Local      a call to a handler of the saga's own service runs inside this transaction, behind a savepoint.
Timers     rows of the same transaction; a step that is settled makes its timer a no-op.
Operator   a bug or a divergence sends nothing and undoes nothing: the saga waits, and is tried again at every
           start of its service, that is with every deploy.

Source     Garcia-Molina & Salem, Sagas (1987); Richardson, Microservices Patterns (2018), 4.

Next: sagas.replay, transactions.unit_of_work
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncConnection

from eventplat.broker.topology import COMMANDS, EVENTS, QUERIES, routing_key_of
from eventplat.broker.transport import Delivery
from eventplat.clock import Clock
from eventplat.errors import Malformed, Rejected
from eventplat.failpoints import failpoint
from eventplat.lifecycle import Loop
from eventplat.messages.codec import parse, to_envelope
from eventplat.messages.envelope import DONE, FAILED, REJECTED, RUNNING, VOID, Envelope
from eventplat.messages.message import Message
from eventplat.sagas import store
from eventplat.sagas.history import UNDO, Answered, Ask, Asked, Decision, Outcome, Record, to_rejection
from eventplat.sagas.replay import advance
from eventplat.sagas.steps import StepRow, answered_in, row_of
from eventplat.storage.database import Database
from eventplat.storage.failures import is_transient
from eventplat.storage.tables import now_us
from eventplat.transactions.outbox import Letter
from eventplat.transactions.unit_of_work import Transactions, UnitOfWork

logger = logging.getLogger(__name__)

DEADLINE_S = 7 * 24 * 3_600.0
TIMERS_EVERY_S = 1.0
TIMERS_BATCH = 100
OUTCOMES: dict[str, Outcome] = {DONE: "done", REJECTED: "rejected", FAILED: "failed", VOID: "void"}

CallLocal = Callable[[str, bytes, Message | None, Envelope, UnitOfWork], Awaitable[bytes | None]]
Reliably = Callable[[Callable[[], Awaitable[None]]], Awaitable[bool]]


@dataclass(frozen=True)
class Definition:
    """A saga function as declared."""

    name: str
    message: type[Message]
    function: Callable[..., Any]
    id_field: str | None
    version: int
    timeout_s: float | None
    adapter: TypeAdapter[Any] = field(compare=False)


@dataclass
class _Running:
    """A saga in this transaction: its row, its command and its history so far."""

    row: Any
    start: Envelope
    definition: Definition
    history: list[Record]
    keys: dict[str, StepRow]           # by path: where a step was sent, so that its undo follows it
    revision: int


class Orchestrator:
    """Runs the sagas of one service."""

    def __init__(self, service: str, transactions: Transactions, call_local: CallLocal, clock: Clock) -> None:
        self._service, self._transactions, self._call_local = service, transactions, call_local
        self._sender, self._clock = transactions.sender, clock
        self._database: Database = transactions.database
        self._definitions: dict[str, Definition] = {}
        self._timers = Loop(f"{service} timers", self._fire_due, every_s=TIMERS_EVERY_S, clock=clock)

    def add(self, name: str, message: type[Message], function: Callable[..., Any], *, id_field: str | None, version: int,
            timeout_s: float | None) -> None:  # fmt: skip
        """Take in a declared saga."""
        self._definitions[name] = Definition(name, message, function, id_field, version, timeout_s, TypeAdapter(message))

    async def start(self) -> None:
        """Try the sagas that wait for a fixed deploy, then watch the timers."""
        async with self._database.transaction(read_only=True) as connection:
            waiting = await store.ids_in_state(connection, "operator", list(self._definitions))
        for saga_id in waiting:
            await self._tried_again(saga_id)
        await self._timers.start()

    async def stop(self) -> None:
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
        if not await store.start(work.connection, saga_id, name, definition.version, envelope, deadline_us):
            raise Rejected("already_started", saga=saga_id)
        deadline = {"id": self._sender.new_id(), "kind": "deadline", "subject": saga_id, "position": None, "after_us": deadline_us}
        await store.add_timers(work.connection, [deadline])
        await self._go_on(work, await self._load(work.connection, saga_id), None)

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
        async with self._database.transaction(read_only=True) as connection:
            place = await store.saga_of_step(connection, reply.causation)
        if place is None:
            logger.warning("a reply to %s belongs to no saga step", reply.causation)
            return
        saga_id, path = place
        body = b"" if outcome == "done" and path.startswith(UNDO) else reply.body
        await self._happened(saga_id, Answered(path, outcome, body, self._clock.time_us()))

    async def _happened(self, saga_id: str, answered: Answered) -> None:
        try:
            async with self._transactions.begin() as work:
                running = await self._load(work.connection, saga_id)
                if running.row.ended_us is None and answered.path in running.keys and not answered_in(running.history, answered.path):
                    await self._go_on(work, running, answered)
                failpoint("saga.before_commit")
        except Exception as error:
            if is_transient(error):
                raise
            await self._stand_still(saga_id, answered, error)
        failpoint("saga.after_commit")

    async def _stand_still(self, saga_id: str, answered: Answered | None, error: Exception) -> None:
        """Keep the answer, do nothing: a handler of this service failed inside the saga's transaction."""
        logger.exception("saga %s waits for the operator", saga_id, exc_info=error)
        async with self._transactions.begin() as work:
            running = await self._load(work.connection, saga_id)
            if answered is not None and not answered_in(running.history, answered.path):
                await self._record_answer(work, running, answered)
            await store.save(work.connection, saga_id, state="operator", problem=f"{type(error).__name__}: {error}"[:4_000],
                             revision=running.revision)  # fmt: skip

    async def _tried_again(self, saga_id: str) -> None:
        try:
            async with self._transactions.begin() as work:
                await self._go_on(work, await self._load(work.connection, saga_id), None)
        except Exception as error:
            if is_transient(error):
                raise
            await self._stand_still(saga_id, None, error)

    # --- one decision -----------------------------------------------------------------------------

    async def _go_on(self, work: UnitOfWork, running: _Running, answered: Answered | None) -> None:
        """Decide what follows from the history with `answered`, do it, and again while local handlers answer."""
        news, work.cause = answered, running.start
        while True:
            decision = await self._decide(work, running, news)
            if decision.status == "operator":
                logger.error("saga %s waits for the operator: %s", running.row.id, decision.problem)
                await self._save(work, running, state="operator", problem=decision.problem)
                return
            locals_ = await self._ask(work, running, decision)
            if not locals_:
                break
            for ask in locals_:
                await self._record_answer(work, running, await self._answer_here(work, running, ask))
            news = None
        if decision.status in ("completed", "compensated"):
            await self._end(work, running, decision)
        else:
            await self._save(work, running, state=decision.status, problem=None)

    async def _decide(self, work: UnitOfWork, running: _Running, news: Answered | None) -> Decision:
        history = running.history if news is None else [*running.history, news]
        message = parse(running.definition.adapter, running.start.body)
        decision = advance(
            running.definition.function, message, history,
            saga_id=running.row.id, service=self._service, started_us=running.row.started_us, version=running.row.version,
        )  # fmt: skip
        is_resent = news is not None and any(ask.record.path == news.path for ask in decision.resend)
        if news is not None and not is_resent:
            await self._record_answer(work, running, news)
        return decision

    async def _ask(self, work: UnitOfWork, running: _Running, decision: Decision) -> list[Ask]:
        """Record new steps and send what goes to others; returns what this service answers itself."""
        rows, here = [], []
        for ask in decision.asked:
            row = row_of(running.row, ask, running.keys, position=running.revision, asked_us=self._clock.time_us())
            running.revision += 1
            running.history.append(ask.record)
            running.keys[ask.record.path] = row
            rows.append(row.values())
            if ask.record.kind in ("call", "undo") and ask.record.type.partition(".")[0] == self._service and row.is_command:
                here.append(ask)
            else:
                await self._send(work, running, ask, row)
        await store.add_steps(work.connection, rows)
        for ask in decision.resend:
            await self._send(work, running, ask, running.keys[ask.record.path])
        return here

    async def _send(self, work: UnitOfWork, running: _Running, ask: Ask, row: StepRow) -> None:
        if ask.record.kind in ("call", "undo", "publish", "send"):
            work.post(self._letter(running, ask, row))
        if ask.record.timeout_s is not None:
            timer = {"id": self._sender.new_id(), "kind": "step", "subject": running.row.id, "position": ask.record.path}
            await store.add_timers(work.connection, [timer | {"after_us": int(ask.record.timeout_s * 1_000_000)}])

    def _letter(self, running: _Running, ask: Ask, row: StepRow) -> Letter:
        record, is_event, is_query = ask.record, ask.record.kind == "publish", row.is_query
        waits = record.kind in ("call", "undo")
        envelope = Envelope(
            id=row.command_id or "",
            type=record.type,
            body=record.body,
            correlation_id=running.start.correlation_id,
            causation=running.start.id,
            reply_to=self._sender.names.replies(self._service) if waits else None,
            app_id=self._service,
            user_id=self._sender.user_id,
            key=row.key,
            stream=row.stream if row.key is not None else None,
            undoes=None if ask.undoes is None else running.keys[ask.undoes].command_id,
            grant=running.start.grant,
            traceparent=running.start.traceparent,
        )
        exchange = self._sender.names.exchange(EVENTS if is_event else QUERIES if is_query else COMMANDS)
        return Letter(exchange, routing_key_of(record.type, row.stream, row.key, is_query=is_query), envelope, is_event)

    async def _answer_here(self, work: UnitOfWork, running: _Running, ask: Ask) -> Answered:
        """Run a handler of this service inside the saga's own transaction; its "no" rolls back to the savepoint."""
        letter = self._letter(running, ask, running.keys[ask.record.path])
        mark = work.mark()
        try:
            async with work.session().begin_nested():
                body = await self._call_local(ask.record.type, ask.record.body, ask.message, letter.envelope, work)
        except Rejected as rejected:
            work.back_to(mark)
            return Answered(ask.record.path, "rejected", to_rejection(rejected), self._clock.time_us())
        is_undo = ask.record.kind == "undo"
        return Answered(ask.record.path, "done", b"" if is_undo else body or b"null", self._clock.time_us())

    async def _end(self, work: UnitOfWork, running: _Running, decision: Decision) -> None:
        type_ = DONE if decision.status == "completed" else REJECTED
        await self._save(work, running, state=decision.status, problem=None, outcome_type=type_, outcome=decision.outcome,
                         ended_us=now_us())  # fmt: skip
        await store.clear_timers(work.connection, running.row.id)
        work.answer(running.start, type_, decision.outcome)

    # --- rows -------------------------------------------------------------------------------------

    async def _load(self, connection: AsyncConnection, saga_id: str) -> _Running:
        row = await store.lock(connection, saga_id)
        definition = self._definitions.get(row.name) if row is not None else None
        if row is None or definition is None:
            raise LookupError(f"saga {saga_id!r} of {row.name if row else 'unknown name'!r} has no code in this release")
        steps = [StepRow.read(step) for step in await store.steps(connection, saga_id)]
        start = Envelope(
            id=row.command_id, type=row.type, body=row.body, correlation_id=row.correlation_id, reply_to=row.reply_to, grant=row.grant
        )
        return _Running(row, start, definition, _history(steps), {step.asked.path: step for step in steps}, row.revision)

    async def _record_answer(self, work: UnitOfWork, running: _Running, answered: Answered) -> None:
        await store.settle_step(work.connection, running.row.id, answered.path, running.revision, answered.outcome, answered.body,
                                answered.at_us)  # fmt: skip
        await store.clear_timers(work.connection, running.row.id, answered.path)
        running.revision += 1
        running.history.append(answered)

    async def _save(self, work: UnitOfWork, running: _Running, **values: Any) -> None:
        await store.save(work.connection, running.row.id, revision=running.revision, **values)

    # --- timers -----------------------------------------------------------------------------------

    async def _fire_due(self) -> float | None:
        async with self._database.transaction(read_only=True) as connection:
            due = await store.due_timers(connection, limit=TIMERS_BATCH)
            next_us = await store.next_timer_us(connection)
            now = await self._database.now_us(connection)
        for timer_id in due:
            await self._fire(timer_id)
        if due:
            return 0.0
        return TIMERS_EVERY_S if next_us is None else min(TIMERS_EVERY_S, max(next_us - now, 0) / 1_000_000)

    async def _fire(self, timer_id: str) -> None:
        async with self._transactions.begin() as work:
            timer = await store.claim_timer(work.connection, timer_id)
            if timer is None:
                return
            failpoint("saga.timer_claimed")
            running = await self._load(work.connection, timer.saga_id)
            if running.row.ended_us is not None:
                return
            if timer.kind == "deadline":
                await self._save(work, running, state="operator", problem="it has not ended before its deadline")
                logger.error("saga %s has not ended before its deadline: it waits for the operator", timer.saga_id)
            elif timer.path in running.keys and not answered_in(running.history, timer.path):
                asked: Asked = running.keys[timer.path].asked
                ending: Outcome = "done" if asked.kind == "sleep" else "timed_out"
                await self._go_on(work, running, Answered(timer.path, ending, b"", self._clock.time_us()))


def _history(steps: list[StepRow]) -> list[Record]:
    records: list[tuple[int, Record]] = [(step.position, step.asked) for step in steps]
    records += [(step.settled_position, step.answered) for step in steps if step.answered is not None and step.settled_position is not None]
    return [record for _, record in sorted(records, key=lambda pair: pair[0])]


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
