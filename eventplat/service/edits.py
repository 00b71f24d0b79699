"""Edits: another body for a dead letter, compared with the one it had and checked before it takes its place. Pure.

Next: service.dead_letters
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from eventplat.errors import BadEdit, Malformed
from eventplat.messages.codec import check_size, parse
from eventplat.messages.message import Message
from eventplat.transactions.pending import Pending


@dataclass(frozen=True)
class Edit:
    """A message and what its edit changes, as a unified diff; empty where nothing does."""

    message: Pending
    diff: str


def diff_of(before: bytes, after: bytes) -> str:
    """Two bodies as a unified diff of their JSON, one value a line; empty where they are equal."""
    if before == after:
        return ""
    lines = difflib.unified_diff(_lines(before), _lines(after), "before", "after", lineterm="")
    return "\n".join(lines) or "--- before\n+++ after\n(spaces alone)"


def readable(body: bytes) -> str:
    """A body for a reader: its JSON one value a line, or the bytes as text where it is none."""
    try:
        return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except ValueError:
        return body.decode(errors="backslashreplace")


def _lines(body: bytes) -> list[str]:
    return readable(body).splitlines()


def check(row: Pending, body: bytes, against: type[Message]) -> None:
    """Refuse a body that the handler of `row` would not take.

    Raises:
        BadEdit: It is not of the class, or has another key: the key has decided its place and order.
    """
    try:
        check_size(body)
        message: Message = parse(TypeAdapter[Any](against), body)
    except Malformed as error:
        raise BadEdit(f"the new body is no {against.__name__}: {error.args[0]}") from None
    if row.key is not None and message.key != row.key:
        raise BadEdit(f"the new body has the key {message.key!r}: it was sent, and ordered, by {row.key!r}")
