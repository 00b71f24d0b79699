"""Replay: start the function anew, feed it its history, and see what it asks next. Pure: no I/O, no loop, no clock.

Order     The history is fed in the order it was recorded, never branch by branch: an answer resumes exactly the
          branch that waits for it, so branches that share a variable interleave as they first did.
Check     Every step asked is compared with the one recorded at its path (kind, type, non-default fields), and at the
          end every recorded path must have been asked. What differs has `Diverged`: nothing is sent.
Endings   Rejected, Failed, TimedOut and cancellation undo the done steps, last first, one at a time; a step that timed
          out is undone at once, before the function hears of it. Any other exception is a bug and undoes nothing,
          until somebody cancels the saga.
Pivot     Past it a timeout sends again; a step out of attempts, or a refusal nobody catches, waits for the operator.
Cost      A run is a full replay, nothing is cached, so any instance resumes any saga: some 10 µs a step.

Next: sagas.orchestrator
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, NoReturn, cast

from eventplat.errors import Diverged, ForeignAwait, SagaError, TooManySteps
from eventplat.messages.message import Command, Message, Query
from eventplat.sagas.branches import Branch, Branches
from eventplat.sagas.history import (
    STEPS_MAX,
    STUCK,
    UNDO,
    Answered,
    Ask,
    Asked,
    Cancelled,
    Decision,
    Record,
    Status,
    StepKind,
    to_error,
    to_rejection,
)
from eventplat.sagas.saga import ENDINGS, Call, Cancellation, Gather, Halt, Saga, Sleep

SagaFunction = Callable[[Any, Saga], Awaitable[Any]]

PROBLEM_CHARS_MAX = 4_000


def advance(
    function: SagaFunction,
    command: Message,
    history: Sequence[Record],
    *,
    saga_id: str,
    service: str,
    started_us: int,
    version: int = 1,
    twice: bool = False,
) -> Decision:
    """What the saga does next.

    Args:
        command: What started it.
        history: Everything recorded since, answers and cancellation in the order they were recorded.
        service: Whose saga it is: the owner of messages that name none.
        started_us: Microseconds since 1970, recorded.
        version: Of the code that started it, recorded.
        twice: Decide twice and compare: finds a clock, a random number or a fresh id in a command before it is sent.

    Returns:
        The decision. Bugs of the function, divergence and limits are its `problem`, not exceptions.
    """

    def decide() -> Decision:
        return _Replay(command, history, saga_id, version, service, started_us).decide(function)

    decision = decide()
    if twice and decision.status != "operator" and _said(decision) != _said(decide()):
        error = Diverged("deciding twice asked two things: a clock, chance or a fresh id. Use saga.now and saga.random")
        return Decision("operator", open=_without(decision.open, decision.asked), problem=_describe(error))
    return decision


@dataclass(slots=True, eq=False)
class _Step:
    ask: Ask
    branch: Branch | None        # what its answer resumes; None of an undo
    undo: Message | None = None
    repeats: bool = False        # a timeout means: send again


class _Replay:
    """One run of the function, and its saga's driver; used once."""

    def __init__(
        self, command: Message, history: Sequence[Record], saga_id: str, version: int, service: str, started_us: int
    ) -> None:
        self.now_us = started_us
        self._command, self._history, self._service = command, history, service
        self._recorded = {record.path: record for record in history if isinstance(record, Asked)}
        self._is_given_up = any(isinstance(record, Cancelled) for record in history)   # a bug then undoes what is done
        self._saga = Saga(saga_id, version, self)
        self._branches = Branches(self._perform)
        self._steps: dict[str, _Step] = {}
        self._open: dict[str, _Step] = {}
        self._new: list[Ask] = []
        self._resend: dict[str, Ask] = {}
        self._stuck: dict[str, str] = {}      # path -> why only an operator can go on
        self._done: list[_Step] = []          # to undo, in the order they were done
        self._forward = self._undos = 0       # steps asked by the function; undos on their way
        self._pivoted = self._cancelled = self._stopping = self._ended = False
        self._reply = self._rejection = b""
        self._problem: BaseException | None = None

    def decide(self, function: SagaFunction) -> Decision:
        try:
            root = self._branches.begin("", _start(function, self._command, self._saga))
            self._go_on(root)
            for record in self._history:
                if not isinstance(record, Asked):
                    self._hear(record)
                    self._go_on(root)
            self._find_vanished()
        except Halt:
            pass  # self._problem says why
        finally:
            left = self._branches.close()
            self._problem = self._problem or left
        return self._decision()

    def _go_on(self, root: Branch) -> None:
        self._branches.run()
        if root.has_ended and not self._ended:
            self._ended = True
            self._end(root)
        if self._rejection and self._done and not self._undos:
            self._undo(self._done.pop())

    def _end(self, root: Branch) -> None:
        error = root.error
        if error is None and self._stopping:
            error = Cancellation("cancelled")  # heard, and swallowed
        try:
            if error is None:
                self._reply = self._encode(root.value)
            elif not isinstance(error, ENDINGS) and (self._pivoted or not self._is_given_up):
                self._halt(_as_foreign_await(error))
            elif self._pivoted:
                self._halt(SagaError(f"past its pivot the saga ended by {type(error).__name__}: {error}"))
            else:
                self._rejection = to_rejection(error if isinstance(error, ENDINGS) else Cancellation("cancelled"))
        except Exception as bug:  # a reply or facts that are not what their types say
            self._halt(bug)

    def _encode(self, reply: Any) -> bytes:
        if self._branches.has_forgotten():
            raise SagaError("the saga returned before it awaited a step that it had made: await it")
        return _answers(self._command).reply_adapter().dump_json(reply, warnings="error")

    # --- what is asked ------------------------------------------------------------------------------------------------

    def _perform(self, branch: Branch, yielded: object) -> None:
        if not isinstance(yielded, Call | Sleep | Gather):
            self._halt(ForeignAwait(f"the saga awaited a {type(yielded).__name__}"))
        elif self._cancelled and not self._pivoted:
            self._stop(branch)
        elif isinstance(yielded, Call):
            self._ask(branch, "call", yielded.request, yielded.undo, yielded.timeout_s)
        elif isinstance(yielded, Sleep):
            self._ask(branch, "sleep", timeout_s=yielded.duration_s)
        else:
            self._branches.gather(branch, yielded.branches)

    def _stop(self, branch: Branch) -> None:
        self._stopping = True
        self._branches.resume(branch, error=Cancellation("cancelled"))

    def admit(self) -> None:
        if self._branches.is_closed:
            raise Halt

    def keep(self, made: Awaitable[Any]) -> None:
        self._branches.keep(made)

    def place(self) -> str:
        return self._branches.current.place

    def tell(self, kind: Literal["publish", "send", "pivot"], message: Message | None) -> None:
        self.admit()
        branch = self._branches.current
        if kind == "pivot":
            if branch.parent is not None:
                self._halt(SagaError("saga.pivot() in a branch of gather: the other branches would not know. Gather, then pivot"))
            if self._cancelled and not self._pivoted:
                self._stopping = True
                raise Cancellation("cancelled")
        self._ask(branch, kind, message)
        if kind == "pivot":
            self._pivoted = True
            self._done.clear()

    def _ask(
        self,
        branch: Branch,
        kind: StepKind,
        message: Message | None = None,
        undo: Message | None = None,
        timeout_s: float | None = None,
    ) -> None:
        if self._forward == STEPS_MAX:
            self._halt(TooManySteps(f"the saga asks for more than {STEPS_MAX:,} steps"))
        self._forward += 1
        path = branch.take_path()
        record = self._recorded.get(path)
        try:
            type_ = self._type(message) if message is not None else ""
            digest = _digest(message, undo)
            if record is None or (record.kind, record.type, record.digest) != (kind, type_, digest):
                body = message.to_bytes() if message is not None else b""
                undone = (self._type(undo), undo.to_bytes()) if undo is not None else None
                record = Asked(path, kind, type_, body, digest, undone, timeout_s)
        except Exception as bug:  # it is no message, or cannot be written
            self._halt(bug)
        self._add(_Step(Ask(record, message), branch, undo, repeats=self._pivoted), is_open=timeout_s is not None)

    def _undo(self, step: _Step) -> None:
        """Send what undoes `step`: the bytes recorded with it."""
        asked = step.ask.record
        assert asked.undo is not None  # noqa: S101 - only such steps come here
        type_, body = asked.undo
        record = Asked(UNDO + asked.path, "undo", type_, body, _digest(step.undo, None), timeout_s=asked.timeout_s)
        self._undos += 1
        self._add(_Step(Ask(record, step.undo, undoes=asked.path), None, repeats=True), is_open=True)

    def _add(self, step: _Step, *, is_open: bool) -> None:
        asked = step.ask.record
        record = self._recorded.get(asked.path)
        if record is None:
            self._new.append(step.ask)
        elif (record.kind, record.type, record.digest) != (asked.kind, asked.type, asked.digest):
            self._halt(Diverged(f"at step {asked.path} the history has {_text(record)}, the code asks {_text(asked)}"))
        self._steps[asked.path] = step
        if is_open:
            self._open[asked.path] = step

    def _type(self, message: Message) -> str:
        return message.wire.type_under(message.wire.owner or self._service)

    # --- what is heard ------------------------------------------------------------------------------------------------

    def _hear(self, record: Answered | Cancelled) -> None:
        self.now_us = max(self.now_us, record.at_us)
        if isinstance(record, Answered):
            self._hear_answer(record)
        elif not self._pivoted:
            self._cancelled = True
            for path, step in list(self._open.items()):
                if step.branch is not None and step.ask.record.kind == "sleep":  # a call is heard out: it may have to be undone
                    del self._open[path]
                    self._stop(step.branch)

    def _hear_answer(self, answered: Answered) -> None:
        path, outcome = answered.path, answered.outcome
        step = self._steps.get(path)
        if step is None:
            self._halt(Diverged(f"step {path} was answered, but the code does not ask it"))
        if path not in self._open:
            return  # a late answer: what came first stands
        if step.repeats and outcome == "timed_out":
            self._resend[path] = step.ask
            return
        self._resend.pop(path, None)
        if step.repeats and outcome in STUCK.get(step.ask.record.kind, ()):
            self._stuck[path] = f"step {path} ({step.ask.record.type}) is {outcome}: {answered.body.decode(errors='replace')}"
            return
        self._stuck.pop(path, None)
        del self._open[path]
        if step.branch is None:
            self._undos -= 1
            return
        if step.undo is not None and not step.repeats:
            if outcome == "done":
                self._done.append(step)
            elif outcome == "timed_out":
                self._undo(step)
        self._branches.resume(step.branch, *self._read(step.ask, answered))

    def _read(self, ask: Ask, answered: Answered) -> tuple[Any, BaseException | None]:
        if ask.message is None:
            return None, None  # a sleep
        try:
            if answered.outcome == "done":
                return _answers(ask.message).reply_adapter().validate_json(answered.body or b"null"), None
            return None, to_error(ask.record, answered)
        except (ValueError, TypeError, KeyError) as error:
            self._halt(SagaError(f"the answer to step {answered.path} ({ask.record.type}) cannot be read: {error}"))

    # --- the end of a run ---------------------------------------------------------------------------------------------

    def _halt(self, error: BaseException) -> NoReturn:
        self._problem = self._problem or error
        self._branches.is_halted = True
        raise Halt

    def _find_vanished(self) -> None:
        for path, record in self._recorded.items():
            if path not in self._steps:
                self._halt(Diverged(f"at step {path} the history has {_text(record)}, the code asks nothing"))

    def _decision(self) -> Decision:
        waiting = tuple(step.ask for step in self._open.values())
        if self._problem is not None or self._stuck:
            problem = _describe(self._problem) if self._problem is not None else "; ".join(self._stuck.values())
            return Decision("operator", open=_without(waiting, self._new), problem=problem)
        status: Status = "running"
        if self._rejection:
            status = "compensating" if self._undos else "compensated"
        elif self._ended and not self._undos:
            status = "completed"
        return Decision(status, tuple(self._new), tuple(self._resend.values()), waiting, self._reply or self._rejection)


async def _start(function: SagaFunction, command: Message, saga: Saga) -> Any:
    return await function(command, saga)


def _answers(message: Message) -> type[Command[Any] | Query[Any]]:
    return cast("type[Command[Any] | Query[Any]]", type(message))


def _digest(message: Message | None, undo: Message | None) -> str:
    """Of what differs from the defaults: a new optional field must not stop the sagas that run."""
    said = "\x1f".join(each.model_dump_json(exclude_defaults=True) for each in (message, undo) if each is not None)
    return blake2b(said.encode(), digest_size=8).hexdigest() if said else ""


def _text(asked: Asked) -> str:
    if not asked.type:
        return f"a {asked.kind}"
    undo = f", undone by {asked.undo[0]} {asked.undo[1].decode()}" if asked.undo is not None else ""
    return f"{asked.kind} {asked.type} {asked.body.decode()}{undo}"


def _without(asks: Sequence[Ask], others: Sequence[Ask]) -> tuple[Ask, ...]:
    paths = {other.record.path for other in others}
    return tuple(ask for ask in asks if ask.record.path not in paths)


def _said(decision: Decision) -> object:
    return decision.status, [ask.record for ask in decision.asked], decision.outcome, [ask.record.path for ask in decision.open]


def _as_foreign_await(error: BaseException) -> BaseException:
    if isinstance(error, RuntimeError) and str(error) == "no running event loop":  # asyncio.sleep where none runs
        return ForeignAwait("the saga awaited something that needs an event loop")
    return error


def _describe(error: BaseException) -> str:
    """The error with its code; of a bug its traceback's last lines."""
    return "".join(traceback.format_exception(error, limit=-8)).strip()[-PROBLEM_CHARS_MAX:]
