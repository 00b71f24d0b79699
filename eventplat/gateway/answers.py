"""Answers: what a service's reply, or an error of the gateway, is over HTTP. Pure.

Done: the reply's own bytes. Rejected: a problem with the service's status. Failed and void: problems of ours. An error
of the gateway: a problem with the headers that HTTP asks for.

Next: gateway.problems
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from eventplat.errors import BadToken, BrokerAway, GatewayError, GatewayFull, ServiceAway, StillRunning, WrongMethod
from eventplat.gateway.problems import Headers, Reply, problem, problem_reply
from eventplat.gateway.validation import Wrong
from eventplat.messages.envelope import DONE, FAILED, REJECTED, RUNNING, Envelope

RETRY_AFTER_S = 1
NEXT_MOVES = {               # of a business "no", where the service names none
    403: "Ask for the right that is missing, or for somebody who has it",
    404: "Check the id: nothing stands under it",
    422: "Mend what the reason names, and send it under a new Idempotency-Key: the same one is refused again",
}
NEXT_MOVE = "Read how things stand, and where it is still wanted send it under a new Idempotency-Key: the same one is refused again"
MEMBERS = frozenset({"type", "title", "status", "code", "detail", "next", "reason"})   # a problem's own: no fact replaces them


class WrongMethodHere(WrongMethod):
    """The path has other methods."""

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"{method} is not among {allowed}")
        self.allowed = allowed


class RunningHere(StillRunning):
    """The command is known and has not ended; `location` says where to ask."""

    def __init__(self, location: str) -> None:
        super().__init__("its outcome is not known yet")
        self.location = location


def retry_after() -> Headers:
    """When to ask again."""
    return [(b"retry-after", str(RETRY_AFTER_S).encode())]


def of_error(error: GatewayError) -> Reply:
    """The response for an error of the gateway, with its headers."""
    headers: Headers = []
    if isinstance(error, BadToken):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, ServiceAway | BrokerAway | GatewayFull | StillRunning):
        headers += retry_after()
    if isinstance(error, WrongMethodHere):
        headers.append((b"allow", error.allowed.encode()))
    if isinstance(error, RunningHere):
        headers.append((b"location", error.location.encode()))
    members = {"errors": error.errors} if isinstance(error, Wrong) else {}
    return problem(error, headers=headers, **members)


def of_reply(answer: Envelope, *, status: int, has_reply: bool, tells_cause: bool) -> Reply:
    """The response for an answer that is not RUNNING.

    Args:
        status: Of a reply with a body; one that only acknowledges is 204.
        tells_cause: Whether a failure's text is for the caller's eyes; it may quote rows and statements.
    """
    if answer.type == DONE:
        return Reply(status, answer.body) if has_reply else Reply(204)
    if answer.type == REJECTED:
        return rejected(json.loads(answer.body))
    if answer.type == FAILED:
        return failed(json.loads(answer.body), tells_cause=tells_cause)
    return rejected({"reason": "void", "facts": {"detail": "it was undone before it ran, or came too late; it will never run"}})


def of_operation(answer: Envelope, *, tells_cause: bool) -> Reply:
    """The response for what became of a command: running, done, rejected or failed; the last two with their problem."""
    if answer.type == RUNNING:
        return Reply(200, b'{"status":"running"}', headers=retry_after())
    if answer.type == DONE:
        return Reply(200, b'{"status":"done","result":' + (answer.body or b"null") + b"}")
    said = of_reply(answer, status=200, has_reply=True, tells_cause=tells_cause)
    status = b"rejected" if answer.type == REJECTED else b"failed"
    return Reply(200, b'{"status":"' + status + b'","problem":' + said.body + b"}")


def rejected(told: Mapping[str, Any]) -> Reply:
    """The response for a business "no": `told` is the body of a REJECTED reply."""
    status, reason, facts = told.get("status", 409), str(told.get("reason", "rejected")), dict(told.get("facts") or {})
    if not isinstance(status, int) or not 400 <= status < 500:
        status = 409
    detail, next_move = str(facts.get("detail", "")), str(facts.get("next") or NEXT_MOVES.get(status, NEXT_MOVE))
    members = {"reason": reason, **{name: value for name, value in facts.items() if name not in MEMBERS}}
    return problem_reply(status, reason.replace("_", " ").capitalize(), "EP700", detail, next_move, None, members)


def failed(told: Mapping[str, Any], *, tells_cause: bool) -> Reply:
    """The response for a message that ran out of attempts: nothing was applied."""
    text = str(told.get("error", "")) if tells_cause else "the service's log says why"
    detail = f"{text} ({told.get('code', '')})"
    return problem_reply(500, "The service failed", "EP702", detail, "An operator can replay its dead letter", None, {})
