"""Execution: what one saga does next, from its rows to its decision and back, inside the caller's transaction.

Loads the saga with its history, asks the pure core what follows, records it, and lets the commands of the
decision leave with the transaction.

Local      a call to a handler of the saga's own service runs inside this transaction, behind a savepoint.
Stuck      an answer that does not end a step that must be done is kept, and the next one takes its place.
Questions  have no effect, and their answers may be lost: they are asked again until their step's time is up.

Next: sagas.replay, transactions.unit_of_work
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from eventplat.broker.topology import COMMANDS, EVENTS, QUERIES, routing_key_of
from eventplat.clock import Clock
from eventplat.errors import Rejected
from eventplat.messages.envelope import DONE, REJECTED, Envelope
from eventplat.messages.message import Message
from eventplat.messages.versions import read
from eventplat.sagas import store
from eventplat.sagas.history import Answered, Ask, Cancelled, Decision, News, Record, stuck_paths, to_rejection, with_news
from eventplat.sagas.replay import advance
from eventplat.sagas.steps import StepRow, history_of, row_of
from eventplat.sagas.store import Changes, Timer, TimerKind
from eventplat.storage.tables import now_us
from eventplat.transactions.letter import Letter
from eventplat.transactions.sender import Sender
from eventplat.transactions.unit_of_work import UnitOfWork

logger = logging.getLogger(__name__)

ASK_AGAIN_S = 2.0         # a query whose answer has not come; the wait doubles
ASK_AGAIN_S_MAX = 30.0

CallLocal = Callable[[str, bytes, Message | None, Envelope, UnitOfWork], Awaitable[bytes | None]]


@dataclass(frozen=True)
class Definition:
    """A saga function as declared."""

    name: str
    message: type[Message]
    function: Callable[..., Any]
    id_field: str | None
    version: int
    timeout_s: float | None


@dataclass
class Running:
    """A saga in this transaction: its row, its command and its history so far."""

    row: Any
    start: Envelope
    definition: Definition | None      # None: this release does not know it
    history: list[Record]
    keys: dict[str, StepRow]           # by path: where a step was sent, so that its undo follows it
    revision: int
    is_overdue: bool
    changes: Changes


class Execution:
    """Executes the sagas of one service."""

    def __init__(self, definitions: Mapping[str, Definition], sender: Sender, call_local: CallLocal, clock: Clock) -> None:
        self._definitions, self._sender, self._call_local, self._clock = definitions, sender, call_local, clock
        self._service = sender.service

    async def load(self, connection: AsyncConnection, saga: str, *, skip_locked: bool = False) -> Running | None:
        """The saga that this command started, locked."""
        row = await store.lock(connection, saga, skip_locked=skip_locked)
        return None if row is None else await self._read(connection, row)

    async def load_of_step(self, connection: AsyncConnection, command_id: str) -> tuple[Running, str] | None:
        """The saga whose step sent this command, locked, and the step's path."""
        row = await store.lock_of_step(connection, command_id)
        return None if row is None else (await self._read(connection, row), row.path)

    def begun(self, row: Any) -> Running:
        """The saga of a row that this transaction has inserted."""
        return self._running(row, [])

    async def _read(self, connection: AsyncConnection, row: Any) -> Running:
        return self._running(row, [StepRow.read(step) for step in await store.steps(connection, row.command_id)])

    def _running(self, row: Any, steps: Sequence[StepRow]) -> Running:
        start = Envelope(
            id=row.command_id, type=row.type, body=row.body, correlation_id=row.correlation_id, reply_to=row.reply_to, grant=row.grant
        )
        cancelled = [] if row.cancelled_us is None else [(int(row.cancelled_position), Cancelled(row.cancelled_us))]
        return Running(
            row, start, self._definitions.get(row.name), history_of(steps, cancelled), {step.asked.path: step for step in steps},
            row.revision, bool(row.is_overdue), Changes(row.command_id, row.bucket),
        )  # fmt: skip

    async def go_on(self, work: UnitOfWork, running: Running, news: News | None) -> None:
        """Decide what follows from the history with `news`, do it, and again while local handlers answer."""
        if running.definition is None or running.is_overdue:
            await self._only_record(work, running, news)
            return
        work.cause = running.start
        while True:
            decision = self._decide(running, running.definition, news)
            if decision.status == "operator":
                await self.wait_for_operator(work, running, decision.problem)
                return
            locals_ = self._ask(work, running, decision)
            if not locals_:
                break
            for ask in locals_:
                self.record(running, await self._answer_here(work, running, ask))
            news = None
        if decision.status in ("completed", "compensated"):
            await self._end(work, running, decision)
        else:
            await self.save(work, running, state=decision.status, problem=None)

    async def _only_record(self, work: UnitOfWork, running: Running, news: News | None) -> None:
        """Keep the news for whoever may go on: an instance that knows the saga, or the operator."""
        if news is not None:
            self.record(running, news)
        if running.definition is None and not running.is_overdue:
            logger.info("saga %s of %s is unknown to this release: another instance goes on", running.row.id, running.row.name)
            running.changes.set(state="running" if running.row.state == "operator" else running.row.state)
            running.changes.set_timer(self._sender.new_id(), "resume")
        await self.save(work, running)

    def _decide(self, running: Running, definition: Definition, news: News | None) -> Decision:
        history = running.history if news is None else with_news(running.history, news)
        message = read(definition.message, running.start.type, running.start.body)
        decision = advance(
            definition.function, message, history,
            saga_id=running.row.id, service=self._service, started_us=running.row.started_us, version=running.row.version,
        )  # fmt: skip
        is_resent = isinstance(news, Answered) and any(ask.record.path == news.path for ask in decision.resend)
        if news is not None and not is_resent:
            self.record(running, news)
        return decision

    async def wait_for_operator(self, work: UnitOfWork, running: Running, problem: str) -> None:
        """Stand still, and say why."""
        if problem != running.row.problem:  # it is said once
            logger.error("saga %s of %s waits for the operator: %s", running.row.id, running.row.name, problem)
        await self.save(work, running, state="operator", problem=problem)

    def ask_stuck_again(self, running: Running) -> None:
        """Take for unanswered what may be asked again here: questions, and what a handler of this service has refused."""
        for path in stuck_paths(running.history):
            row = running.keys[path]
            if row.is_query or self._is_local(row):
                running.history = with_news(running.history, Answered(path, "timed_out", b"", running.row.started_us))

    async def ask_again(self, work: UnitOfWork, running: Running, path: str) -> None:
        """Ask a question once more: its answer leaves at most once, and asking has no effect."""
        row = running.keys[path]
        work.post(self._letter(running, Ask(row.asked), row))
        waited_s = (self._clock.time_us() - row.asked_us) / 1_000_000
        self._set_timer(running, "again", path, min(max(waited_s, ASK_AGAIN_S), ASK_AGAIN_S_MAX))
        await running.changes.write(work.connection)

    def ending_of(self, running: Running, timer: Timer) -> Answered | None:
        """How a step ends whose time is up."""
        if timer.kind != "step" or timer.path not in running.keys:
            return None
        is_sleep = running.keys[timer.path].asked.kind == "sleep"
        return Answered(timer.path, "done" if is_sleep else "timed_out", b"", self._clock.time_us())

    def record(self, running: Running, news: News) -> None:
        """Add `news` to the history; an answer takes the timers of its step with it."""
        position = running.revision
        if isinstance(news, Cancelled):
            running.changes.set(cancelled_us=news.at_us, cancelled_position=position)
        else:
            running.changes.settle(news.path, position, news.outcome, news.body, news.at_us)
        running.revision += 1
        running.history = with_news(running.history, news)

    async def save(self, work: UnitOfWork, running: Running, **values: Any) -> None:
        """Write what has changed of the saga."""
        running.changes.set(revision=running.revision, **values)
        await running.changes.write(work.connection)

    # --- what is asked ----------------------------------------------------------------------------

    def _ask(self, work: UnitOfWork, running: Running, decision: Decision) -> list[Ask]:
        """Record new steps and send what goes to others; returns what this service answers itself."""
        here = []
        for ask in decision.asked:
            row = row_of(running.row, ask, running.keys, position=running.revision, asked_us=self._clock.time_us())
            running.revision += 1
            running.history.append(ask.record)
            running.keys[ask.record.path] = row
            running.changes.ask(row.values())
            if self._is_local(row):
                here.append(ask)
            else:
                self._send(work, running, ask, row)
        for ask in decision.resend:
            row = self._reopen(running, ask.record.path)
            if self._is_local(row):
                here.append(ask)
            else:
                self._send(work, running, ask, row)
        return here

    def _is_local(self, row: StepRow) -> bool:
        """Whether a handler of this service answers it, inside the saga's transaction."""
        return row.asked.kind in ("call", "undo") and row.asked.type.partition(".")[0] == self._service and row.is_command

    def _send(self, work: UnitOfWork, running: Running, ask: Ask, row: StepRow) -> None:
        if ask.record.kind in ("call", "undo", "publish", "send"):
            work.post(self._letter(running, ask, row))
        timeout_s, path = ask.record.timeout_s, ask.record.path
        if timeout_s is not None:
            self._set_timer(running, "step", path, timeout_s)
            if row.is_query and timeout_s > ASK_AGAIN_S:
                self._set_timer(running, "again", path, ASK_AGAIN_S)

    def _set_timer(self, running: Running, kind: TimerKind, path: str, after_s: float) -> None:
        running.changes.set_timer(self._sender.new_id(), kind, path=path, after_us=int(after_s * 1_000_000))

    def _letter(self, running: Running, ask: Ask, row: StepRow) -> Letter:
        record, is_event, is_query = ask.record, ask.record.kind == "publish", row.is_query
        waits = record.kind in ("call", "undo")
        within_ms = int((record.timeout_s or 0) * 1_000) if is_query else None
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
            deadline_ms=None if within_ms is None else self._clock.time_us() // 1_000 + within_ms,
            undoes=None if ask.undoes is None else running.keys[ask.undoes].command_id,
            grant=running.start.grant,
            traceparent=running.start.traceparent,
        )
        exchange = self._sender.names.exchange(EVENTS if is_event else QUERIES if is_query else COMMANDS)
        routing_key = routing_key_of(record.type, row.stream, row.key, is_query=is_query)
        return Letter(exchange, routing_key, envelope, is_event, expiration_ms=within_ms)

    async def _answer_here(self, work: UnitOfWork, running: Running, ask: Ask) -> Answered:
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

    async def _end(self, work: UnitOfWork, running: Running, decision: Decision) -> None:
        type_ = DONE if decision.status == "completed" else REJECTED
        running.changes.set(revision=running.revision, state=decision.status, problem=None, outcome_type=type_,
                            outcome=decision.outcome, ended_us=now_us())  # fmt: skip
        await running.changes.write(work.connection, is_last=True)
        work.answer(running.start, type_, decision.outcome)

    def _reopen(self, running: Running, path: str) -> StepRow:
        """Forget how a step stands that is asked again."""
        running.history = [record for record in running.history if not (isinstance(record, Answered) and record.path == path)]
        running.changes.reopen(path)
        running.keys[path] = replace(running.keys[path], answered=None, settled_position=None)
        return running.keys[path]
