"""HTTP as the hot path needs it: one request read within its limits, one whole response written. Plain ASGI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import parse_qs

from eventplat.errors import BodyTooLarge, GatewayError, NotJson
from eventplat.gateway.problems import Reply

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

    def query(self) -> dict[str, list[str]]:
        """The query parameters.

        Raises:
            ValueError: Over 100 of them.
        """
        return parse_qs(self._query.decode("ascii", "replace"), keep_blank_values=True, max_num_fields=100)

    def check_json(self) -> None:
        """Refuse another content type than JSON.

        Raises:
            NotJson: With what was sent.
        """
        kind = (self.header("content-type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise NotJson(f"the content type is {kind or 'missing'}")

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


async def write(send: Send, reply: Reply) -> None:
    """Send a whole response."""
    headers = [*reply.headers, (b"content-length", str(len(reply.body)).encode())]
    if reply.body:
        headers.append((b"content-type", reply.content_type))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
