"""A route: how a handler is reached over HTTP. Announced with the manifest; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from eventplat.errors import BadHandler
from eventplat.messages.message import Message
from eventplat.retry import Duration, seconds

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_SEGMENT = re.compile(r"[A-Za-z0-9._~-]+|\{[a-z_][a-z0-9_]*\}")


@dataclass(frozen=True)
class Route:
    """`http="POST /orders"` is short for `Route("POST /orders")`.

    Args:
        path: Method and path; each `{name}` is a field of the message.
        status: HTTP status of the answer, 200..299.
        wait: How long the client waits before it gets 202 and an operation; `Prefer: wait=N` may shorten it.
        idempotency_key: Whether a client must send an Idempotency-Key, or may.
    """

    path: str
    status: int = 200
    wait: Duration = 10
    idempotency_key: Literal["accepted", "required"] = "accepted"

    @property
    def method(self) -> str:
        """Upper case, as "POST"."""
        return self.path.partition(" ")[0]

    @property
    def template(self) -> str:
        """The path alone, as "/orders/{order_id}"."""
        return self.path.partition(" ")[2]

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the message's fields that the path carries."""
        return tuple(re.findall(r"\{([a-z_][a-z0-9_]*)\}", self.template))

    def check(self, message: type[Message]) -> None:
        """Refuse a route that cannot be served.

        Raises:
            BadHandler: Unknown method, malformed path, a `{name}` that is no field of `message` or stands there twice,
                a status that says failure, or a wait that is none.
        """
        where = f"{message.__name__}: http={self.path!r}"
        if self.method not in METHODS or not self.template.startswith("/"):
            raise BadHandler(f"{where}. Write it as 'POST /orders': a method of {', '.join(METHODS)}, one space, a path")
        for segment in self.template.strip("/").split("/"):
            if self.template != "/" and not _SEGMENT.fullmatch(segment):
                raise BadHandler(f"{where}: {segment!r} is neither a word nor a {{field}}")
        for name in self.fields:
            if name not in message.model_fields:
                raise BadHandler(f"{where}: {name!r} is no field of it. It has {', '.join(message.model_fields)}")
        if len(set(self.fields)) != len(self.fields):
            raise BadHandler(f"{where}: a field stands there twice")
        if not 200 <= self.status <= 299:
            raise BadHandler(f"{where}: status={self.status}. An answer has 200 to 299; a 'no' is raised: Rejected('reason', status=409)")
        if not 0 <= seconds(self.wait) < float("inf"):
            raise BadHandler(f"{where}: wait={self.wait}. A client waits 0 seconds or more")
        if message.kind == "query" and self.method != "GET":
            raise BadHandler(f"{where}: a query has no effect, so its method is GET")
        if message.kind == "command" and self.method == "GET":
            raise BadHandler(f"{where}: a command has effects, so its method is not GET")
