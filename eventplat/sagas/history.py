"""History: what a saga asked, what it was answered, and what follows from both. Plain data, pure.

A saga has no other state. Its history is a sequence of records in the order they were stored:

Asked      at this path the function asked this; written once, never changed
Answered   this came of it; the order of the answers is the schedule of a replay
Cancelled  from here on the function is to stop

A path is a position: `0`, `1`, … in the function, `2.1.0` the first step of the second branch of a gather
at position 2, `undo.2.1.0` the undo of that step. It names the step, and so its command: asking again is free.

Next: sagas.replay
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from eventplat.errors import Failed, Rejected, TimedOut
from eventplat.messages.ids import derived_id
from eventplat.messages.message import Message

StepKind = Literal["call", "sleep", "publish", "send", "pivot", "undo"]
Outcome = Literal["done", "rejected", "failed", "timed_out", "void"]
Status = Literal["running", "completed", "compensating", "compensated", "operator"]

STEPS_MAX = 1_000   # forward steps of one saga; their undos are not counted
UNDO = "undo."      # begins the path of an undo
STUCK: dict[StepKind, tuple[Outcome, ...]] = {"undo": ("rejected", "failed"), "call": ("failed", "void")}
"""How an undo, or a call past the pivot, stands without being over: it must be done, and only a later answer can say that it is."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One step as it was first asked.

    Attributes:
        type: Wire type of the message, as "stock.reserve-stock.v1"; empty for a sleep and a pivot.
        body: The exact bytes to send, also when it is sent again.
        digest: Of the fields that differ from their defaults, the undo's too: what a replay compares.
        undo: Type and body of the command that undoes it; sent from here, whatever the code says by then.
        timeout_s: How long to wait for an answer; of a sleep, how long it lasts; None where nothing is awaited.
    """

    path: str
    kind: StepKind
    type: str = ""
    body: bytes = b""
    digest: str = ""
    undo: tuple[str, bytes] | None = None
    timeout_s: float | None = None

    def to_json(self) -> str:
        """The record as text: bodies are JSON, so they stand in it as strings."""
        undo = self.undo and (self.undo[0], self.undo[1].decode())
        return json.dumps([self.path, self.kind, self.type, self.body.decode(), self.digest, undo, self.timeout_s])

    @classmethod
    def from_json(cls, text: str) -> Asked:
        """What `to_json` wrote."""
        path, kind, type_, body, digest, undo, timeout_s = json.loads(text)
        return cls(path, kind, type_, body.encode(), digest, (undo[0], undo[1].encode()) if undo else None, timeout_s)


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of a step.

    done       body: the reply's JSON; empty for a sleep and an undo
    rejected   body: {"reason", "status", "facts"}: it did not happen
    failed     the participant ran out of attempts: it did not happen
    timed_out  nobody knows: it may have happened
    void       a tombstone stands in its place: it will never happen
    """

    path: str
    outcome: Outcome
    body: bytes = b""
    at_us: int = 0     # when it was recorded, microseconds since 1970; becomes `saga.now`


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody asked the saga to stop; it does so at its next await, unless it is past its pivot."""

    at_us: int = 0


Record: TypeAlias = Asked | Answered | Cancelled
News: TypeAlias = Answered | Cancelled


@dataclass(frozen=True, slots=True)
class Ask:
    """A step that waits for its answer, or is to be recorded and done now."""

    record: Asked
    message: Message | None = None   # the live object, for a handler of the same service; None for a sleep and a pivot
    undoes: str | None = None        # of an undo: the path of the step it undoes


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from a history.

    running       it waits for `open`; `outcome` is there already where only an undo is awaited
    completed     `outcome` is the reply's JSON
    compensating  it undoes its steps, last first; `outcome` is the rejection it will end with
    compensated   everything is undone; `outcome` is the rejection
    operator      it waits for a fixed deploy or an operator: `problem` says why; nothing is to be sent

    Attributes:
        asked: New steps, in the order to record and do them; together with `status` in one transaction.
        resend: Steps whose timeout means "send the recorded bytes again under the same id", not an answer:
            undos, and calls after the pivot. Such a timeout need not be recorded.
        open: All steps without an answer, `asked` among them. A timer of any other step may go.
    """

    status: Status
    asked: tuple[Ask, ...] = ()
    resend: tuple[Ask, ...] = ()
    open: tuple[Ask, ...] = ()
    outcome: bytes = b""
    problem: str = ""


def is_news(history: Sequence[Record], news: News) -> bool:
    """Whether `news` can change anything: an answer to a step that waits for one, the first cancellation before the pivot.

    A step that must be done waits on after an answer that does not end it; a later one then takes its place.
    """
    if isinstance(news, Cancelled):
        return not any(isinstance(record, Cancelled) or _is_pivot(record) for record in history)
    asked = next((record for record in history if isinstance(record, Asked) and record.path == news.path), None)
    answered = next((record for record in history if isinstance(record, Answered) and record.path == news.path), None)
    return asked is not None and (answered is None or _waits_on(history, asked, answered))


def with_news(history: Sequence[Record], news: News) -> list[Record]:
    """The history with `news` at its end, in the place of an answer that did not end its step."""
    path = news.path if isinstance(news, Answered) else None
    return [*(record for record in history if not (isinstance(record, Answered) and record.path == path)), news]


def stuck_paths(history: Sequence[Record]) -> list[str]:
    """The steps that must be done, and were answered that they were not."""
    asked = {record.path: record for record in history if isinstance(record, Asked)}
    answers = [record for record in history if isinstance(record, Answered) and record.outcome != "timed_out"]
    return [answer.path for answer in answers if _waits_on(history, asked[answer.path], answer)]


def _waits_on(history: Sequence[Record], asked: Asked, answered: Answered) -> bool:
    pivots = [position for position, record in enumerate(history) if _is_pivot(record)]
    must_be_done = asked.kind == "undo" or (asked.kind == "call" and any(history.index(asked) > pivot for pivot in pivots))
    return must_be_done and answered.outcome in ("timed_out", *STUCK[asked.kind])


def _is_pivot(record: Record) -> bool:
    return isinstance(record, Asked) and record.kind == "pivot"


def step_id(command_id: str, started_us: int, path: str) -> str:
    """The id of the message that the step at `path` sends, of the saga that `command_id` started: the same for every copy."""
    direction = "undo" if path.startswith(UNDO) else "do"
    return derived_id(started_us, command_id, path.removeprefix(UNDO), direction)


def to_rejection(error: BaseException) -> bytes:
    """The outcome of a saga that ended by `error`, as the wire has a rejection."""
    if isinstance(error, Rejected):
        facts: dict[str, Any] = error.facts
        return json.dumps({"reason": error.reason, "status": error.status, "facts": facts}, default=str).encode()
    reason = "timed_out" if isinstance(error, TimedOut) else "failed" if isinstance(error, Failed) else "cancelled"
    detail = str(error.args[0]) if error.args else ""
    return json.dumps({"reason": reason, "status": 409, "facts": {"detail": detail} if detail else {}}).encode()


def to_error(asked: Asked, answered: Answered) -> Rejected | TimedOut | Failed:
    """What the function hears of a step that was not done.

    Raises:
        ValueError, TypeError, KeyError: The body is no rejection.
    """
    step = f"{asked.type} at step {asked.path}"
    if answered.outcome == "rejected":
        said = json.loads(answered.body)
        return Rejected(said["reason"], status=said.get("status", 409), **said.get("facts", {}))
    if answered.outcome == "failed":
        return Failed(f"{step} ran out of attempts")
    waited = "is void" if answered.outcome == "void" else f"had no answer in {asked.timeout_s:g} s"
    return TimedOut(f"{step} {waited}")
