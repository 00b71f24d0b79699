"""Idempotency: the command's id from (caller, route, Idempotency-Key), on any replica and without a database. Pure.

A derived id carries a time. Nothing is recorded before the command is, so the time can only come from the key: of a
UUIDv7 its own, else 0. The same key always gives the same id; the owner's inbox then says whether it is new, still
running, done, or has come with another body.
"""

from __future__ import annotations

import re
from uuid import UUID

from eventplat.errors import BadIdempotencyKey
from eventplat.messages.ids import created_us, derived_id, is_id

_KEY = re.compile(r"[!-~]{1,255}")
_VERSION_7 = 7


def command_id(subject: str, route: str, key: str) -> str:
    """The id of the command that `subject` sends to `route` ("POST /orders") under `key`.

    Raises:
        BadIdempotencyKey: Not 1 to 255 visible ASCII characters.
    """
    if not _KEY.fullmatch(key):
        raise BadIdempotencyKey(f"the Idempotency-Key has {len(key)} characters, not all of them visible ASCII" if key else "it is empty")
    time_us = created_us(key) if is_id(key) and UUID(key).version == _VERSION_7 else 0
    return derived_id(time_us, subject, route, key)
