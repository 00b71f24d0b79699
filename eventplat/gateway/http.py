"""HTTP as the hot path needs it: one request read within its limits, one whole response written. Plain ASGI."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import parse_qs

from eventplat.errors import BodyTooLarge, GatewayError, InvalidRequest, NotJson
from eventplat.gateway.problems import Headers, Reply
from eventplat.gateway.validation import check_text

QUERY_PARAMETERS_MAX = 100
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_WAIT = re.compile(r"\s*wait\s*=\s*([0-9]{1,6})\s*", re.IGNORECASE)

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class ClientGone(GatewayError):
    """The client hung up before its request was read: there is nobody to answer."""

    code, status, title = "EP816", 499, "Client closed the connection"


class Request:
    """One request's head."""

    def __init__(self, scope: Scope) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["raw_path"].decode("ascii", "replace").partition("?")[0] if scope.get("raw_path") else scope["path"]
        self._query: bytes = scope["query_string"]
        self._headers: dict[bytes, bytes] = dict(scope["headers"])

    def header(self, name: str) -> str | None:
        """A header's value; None where it is missing."""
        value = self._headers.get(name.lower().encode())
        return None if value is None else value.decode("latin-1").strip()

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context, if it is one: it travels on as a header of messages."""
        value = self.header("traceparent")
        return value if value is not None and _TRACEPARENT.fullmatch(value) else None

    def wait_s(self, longest_s: float) -> tuple[float, Headers]:
        """Seconds that the client waits, `Prefer: wait=N` included, and the header that says it was heeded."""
        for part in (self.header("prefer") or "").split(","):
            found = _WAIT.fullmatch(part.partition(";")[0])
            if found is not None and (wished := int(found[1])) <= longest_s:
                return float(wished), [(b"preference-applied", f"wait={wished}".encode())]
        return longest_s, []

    def query(self) -> dict[str, list[str]]:
        """The query parameters.

        Raises:
            InvalidRequest: Over 100 of them, or one that is not UTF-8.
        """
        try:
            found = parse_qs(
                self._query.decode("ascii"), keep_blank_values=True, max_num_fields=QUERY_PARAMETERS_MAX, errors="strict"
            )
            for name, values in found.items():
                check_text("".join((name, *values)))
        except ValueError as error:
            raise InvalidRequest(f"the query cannot be read: {str(error)[:200]}") from None
        return found

    def check_json(self) -> None:
        """Refuse another content type than JSON, and JSON in an encoding on top.

        Raises:
            NotJson: With what was sent.
        """
        if (encoding := self.header("content-encoding") or "identity").lower() != "identity":
            raise NotJson(f"the content encoding is {encoding[:50]}")
        kind = (self.header("content-type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise NotJson(f"the content type is {kind[:100] or 'missing'}")

    async def body(self, receive: Receive, bytes_max: int) -> bytes:
        """The whole body.

        Raises:
            BodyTooLarge: At the byte that crosses `bytes_max`, whatever Content-Length says.
            ClientGone: The client hung up.
        """
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("before its body had arrived")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > bytes_max:
                raise BodyTooLarge(f"the limit is {bytes_max:,} bytes")
            if not message.get("more_body", False):
                return b"".join(parts)


def bounded(receive: Receive, bytes_max: int) -> Receive:
    """`receive`, which raises BodyTooLarge at the byte that crosses `bytes_max`: for handlers that are not ours."""
    size = 0

    async def counted() -> MutableMapping[str, Any]:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > bytes_max:
            raise BodyTooLarge(f"the limit is {bytes_max:,} bytes")
        return message

    return counted


async def write(send: Send, reply: Reply) -> None:
    """Send a whole response."""
    headers = [*reply.headers, (b"content-length", str(len(reply.body)).encode())]
    if reply.body:
        headers.append((b"content-type", reply.content_type))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
