"""Playing a saga: answers by wire name, fed to the pure core until it asks nothing more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from eventplat.messages.message import Message
from eventplat.sagas.history import Answered, Asked, Decision, Outcome, Record
from eventplat.sagas.replay import SagaFunction, advance

Ending = tuple[Outcome, Any]


def refused(reason: str) -> Ending:
    """The answer of a participant that says no."""
    return "rejected", {"reason": reason, "status": 409, "facts": {}}


def play(function: SagaFunction, command: Message, answers: Mapping[str, Any]) -> tuple[list[str], Decision]:
    """Run a saga to its end.

    Args:
        answers: By `owner.name`: the reply's JSON, or an `Ending`. What is not named answers null.

    Returns:
        What it did, in order, as wire names, `undo …`, `publish …` and `pivot`; and its last decision.
    """
    history: list[Record] = []
    did: list[str] = []
    while True:
        decision = advance(function, command, history, saga_id="s", service="orders", started_us=0, twice=True)
        did += [_name(ask.record) for ask in decision.asked]
        history += [ask.record for ask in decision.asked]
        waiting = [ask.record for ask in decision.open]
        if not waiting or decision.status == "operator":
            return did, decision
        history.append(_answer(waiting[0], answers))


def _answer(asked: Asked, answers: Mapping[str, Any]) -> Answered:
    said = None if asked.kind == "undo" else answers.get(asked.type.removesuffix(".v1"))
    outcome, body = said if isinstance(said, tuple) else ("done", said)
    return Answered(asked.path, outcome, json.dumps(body).encode())


def _name(asked: Asked) -> str:
    name = asked.type.removesuffix(".v1")
    return name if asked.kind == "call" else f"{asked.kind} {name}".strip()
