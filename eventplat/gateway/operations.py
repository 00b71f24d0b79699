"""Operations: a command that outlives its HTTP request, and how its caller asks what became of it.

The id names service, command and caller, and is authenticated, so that any replica of the gateway serves it and
none needs a database: the owning service is asked, which reads the recorded outcome.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import dataclass

from eventplat.errors import UnknownOperation

MAC_BYTES = 16
ID_CHARS_MAX = 2_048


@dataclass(frozen=True)
class Operation:
    """What an operation id says."""

    service: str
    command_id: str
    subject: str          # of the caller


class OperationIds:
    """Makes and reads operation ids under one key, the same for every replica."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def write(self, operation: Operation) -> str:
        """The id of `operation`, fit for a URL."""
        said = json.dumps([operation.service, operation.command_id, operation.subject], separators=(",", ":"), ensure_ascii=False).encode()
        return base64.urlsafe_b64encode(self._mac(said) + said).decode().rstrip("=")

    def read(self, text: str) -> Operation:
        """What `text` says.

        Raises:
            UnknownOperation: It was not made under this key.
        """
        try:
            whole = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) if len(text) <= ID_CHARS_MAX else b""
        except (binascii.Error, ValueError):
            whole = b""
        mac, said = whole[:MAC_BYTES], whole[MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(said)):
            raise UnknownOperation("this gateway has given no such id")
        return Operation(*json.loads(said))

    def _mac(self, said: bytes) -> bytes:
        return hmac.new(self._key, said, hashlib.sha256).digest()[:MAC_BYTES]
