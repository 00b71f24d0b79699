"""Steps as rows: what a step asked, where it was sent, how it ended; and the view that a reader is shown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict

from eventplat.sagas.history import Answered, Ask, Asked, Cancelled, Record, step_id

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class StepRow:
    """A row of `eventplat_saga_step`."""

    saga_command: str              # what started its saga
    bucket: int
    position: int
    asked: Asked
    command_id: str | None
    kind: str                      # of the message: command, query, event; of others their own
    key: str | None
    stream: str
    asked_us: int = 0
    answered: Answered | None = None
    settled_position: int | None = None

    @property
    def is_query(self) -> bool:
        return self.kind == "query"

    @property
    def is_command(self) -> bool:
        return self.kind == "command"

    def values(self) -> dict[str, Any]:
        """The columns of a new row."""
        place = {"kind": self.kind, "key": self.key, "stream": self.stream}
        return {
            "saga_command": self.saga_command,
            "position": self.position,
            "path": self.asked.path,
            "kind": self.asked.kind,
            "bucket": self.bucket,
            "command_id": self.command_id,
            "record": json.dumps({"asked": self.asked.to_json(), **place}),
            "state": "asked",
            "asked_us": self.asked_us,
        }

    @classmethod
    def read(cls, row: Any) -> StepRow:
        """What `values` wrote, with its answer if there is one."""
        record = json.loads(row.record)
        answered = None
        if row.state == "settled":
            answered = Answered(row.path, row.outcome_type, row.outcome or b"", row.settled_us)
        return cls(
            row.saga_command, row.bucket, row.position, Asked.from_json(record["asked"]), row.command_id, record["kind"],
            record["key"], record["stream"], row.asked_us, answered, row.settled_position,
        )  # fmt: skip


def history_of(steps: Sequence[StepRow], cancelled: Sequence[tuple[int, Cancelled]] = ()) -> list[Record]:
    """What was recorded of a saga, in the order in which it was."""
    records: list[tuple[int, Record]] = [(step.position, step.asked) for step in steps]
    records += [(step.settled_position, step.answered) for step in steps if step.answered is not None and step.settled_position is not None]
    return [record for _, record in sorted([*records, *cancelled], key=lambda pair: pair[0])]


def row_of(saga: Any, ask: Ask, known: Mapping[str, StepRow], *, position: int, asked_us: int) -> StepRow:
    """The row of a new step; an undo goes where the step it undoes went."""
    asked = ask.record
    command_id = step_id(saga.command_id, saga.started_us, asked.path) if asked.kind in ("call", "undo", "publish", "send") else None
    kind: str = asked.kind
    key: str | None = None
    stream = "-"
    if ask.undoes is not None:
        undone = known[ask.undoes]
        kind, key, stream = "command", undone.key, undone.stream
    elif ask.message is not None:
        kind, key, stream = ask.message.kind, ask.message.key, ask.message.wire.stream
    return StepRow(saga.command_id, saga.bucket, position, asked, command_id, kind, key, stream, asked_us)


class StepView(BaseModel):
    """One step, for reading."""

    model_config = ConfigDict(frozen=True)

    path: str
    kind: str
    type: str
    state: str
    outcome: str | None
    asked_at: datetime
    settled_at: datetime | None


class SagaView(BaseModel):
    """A saga's state and history, for reading.

    Attributes:
        status: running, compensating, completed, compensated; or operator: `problem` says why it stands.
        waits_for: The messages that have no answer yet, by wire type, and "sleep".
    """

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    version: int
    status: str
    started_at: datetime
    ended_at: datetime | None
    cancelled_at: datetime | None
    problem: str | None
    waits_for: tuple[str, ...]
    steps: tuple[StepView, ...]


def view_of(row: Any, steps: Sequence[Any]) -> SagaView:
    """The view of a saga's rows."""
    seen = tuple(
        StepView(
            path=step.path, kind=step.kind, type=Asked.from_json(json.loads(step.record)["asked"]).type, state=step.state,
            outcome=step.outcome_type, asked_at=_time(step.asked_us), settled_at=_time_or_none(step.settled_us),
        )
        for step in steps
    )  # fmt: skip
    return SagaView(
        id=row.id, name=row.name, version=row.version, status=row.state, started_at=_time(row.started_us),
        ended_at=_time_or_none(row.ended_us), cancelled_at=_time_or_none(row.cancelled_us), problem=row.problem,
        waits_for=tuple(step.type or step.kind for step in seen if step.state == "asked" and step.kind in ("call", "undo", "sleep")),
        steps=seen,
    )  # fmt: skip


def _time_or_none(us: int | None) -> datetime | None:
    return None if us is None else _time(us)


def _time(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)

