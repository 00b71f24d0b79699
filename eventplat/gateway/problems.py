"""Problems: every error that leaves the gateway, as RFC 9457 problem+json with a stable code and a next move."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eventplat.errors import EventplatError, GatewayError

CONTENT_TYPE = b"application/problem+json"
RESERVED = frozenset({"type", "title", "status", "code", "detail", "next"})

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Reply:
    """A whole HTTP response."""

    status: int
    body: bytes = b""
    content_type: bytes = b"application/json"
    headers: Headers = field(default_factory=list)


def problem(error: GatewayError, *, headers: Headers | None = None, **members: Any) -> Reply:
    """The response for an error of the gateway."""
    detail = str(error.args[0]) if error.args else ""
    return _reply(error.status, error.title, error.code, detail, error.next_move, headers, members)


def rejected(facts: Mapping[str, Any]) -> Reply:
    """The response for a business "no": `facts` is the body of a REJECTED reply."""
    status = facts.get("status", 409)
    members = {"reason": facts.get("reason", "rejected"), **{k: v for k, v in facts.get("facts", {}).items() if k not in RESERVED}}
    detail = str(facts.get("facts", {}).get("detail", ""))
    title = str(members["reason"]).replace("_", " ").capitalize()
    if not isinstance(status, int) or not 400 <= status < 500:
        status = 409
    return _reply(status, title, "EP700", detail, "", None, members)


def failed(facts: Mapping[str, Any]) -> Reply:
    """The response for a message that ran out of attempts: nothing was applied."""
    detail = f"{facts.get('error', '')} ({facts.get('code', '')})"
    return _reply(500, "The service failed", "EP702", detail, "An operator can replay its dead letter", None, {})


def unexpected(error: Exception) -> Reply:
    """The response for a bug: what it was stands in the log, not here."""
    code = error.code if isinstance(error, EventplatError) else GatewayError.code
    return _reply(500, GatewayError.title, code, "", GatewayError.next_move, None, {})


def _reply(
    status: int, title: str, code: str, detail: str, next_move: str, headers: Headers | None, members: Mapping[str, Any]
) -> Reply:
    body: dict[str, Any] = {"type": f"urn:eventplat:{code}", "title": title, "status": status, "code": code}
    if detail:
        body["detail"] = detail
    if next_move:
        body["next"] = next_move
    return Reply(status, json.dumps({**body, **members}).encode(), CONTENT_TYPE, headers or [])
