"""Problems: every error that leaves the gateway, as RFC 9457 problem+json with a stable code and a next move. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eventplat.errors import EventplatError, GatewayError

CONTENT_TYPE = b"application/problem+json"

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
    return problem_reply(error.status, error.title, error.code, detail, error.next_move, headers, members)


def unexpected(error: Exception) -> Reply:
    """The response for a bug: what it was stands in the log, not here."""
    code = error.code if isinstance(error, EventplatError) else GatewayError.code
    return problem_reply(500, GatewayError.title, code, "", GatewayError.next_move, None, {})


def problem_reply(
    status: int, title: str, code: str, detail: str, next_move: str, headers: Headers | None, members: Mapping[str, Any]
) -> Reply:
    """A problem from its parts; `members` are its own besides the standard ones."""
    body: dict[str, Any] = {"type": f"urn:eventplat:{code}", "title": title, "status": status, "code": code}
    if detail:
        body["detail"] = detail
    if next_move:
        body["next"] = next_move
    return Reply(status, json.dumps({**body, **members}).encode(), CONTENT_TYPE, headers or [])
