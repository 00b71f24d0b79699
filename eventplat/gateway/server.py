"""Server: the gateway's door, a `Listener` with limits.

Limits are set rather than left at their defaults. uvicorn has no deadline for a request that arrives a byte at a time,
so that a few hundred such clients hold every connection; here a connection has `HEAD_S` for a request's head and
`REQUEST_S` until its body is complete, from the first byte on. h11 is named, since only it bounds the head's size:
another parser that happens to be installed would be taken otherwise. A request with both a length and chunks is refused:
a proxy before us may see its end elsewhere, and what follows as another caller's request. No header tells what serves.
Who comes when `CONCURRENT_MAX` are being answered is told so at once, as a problem like any other: uvicorn's own limit
answers in plain text, and says neither why nor when to come again.

Source    OWASP, "Slow HTTP attacks"; RFC 9112, 6.1; h11, `max_incomplete_event_size`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from eventplat.errors import GatewayError, GatewayFull
from eventplat.gateway.answers import of_error
from eventplat.gateway.http import Receive, Scope, Send, write
from eventplat.gateway.problems import problem_reply
from eventplat.observability.listener import Listener

logger = logging.getLogger(__name__)

HEAD_BYTES_MAX = 16_384
SLICE_BYTES = 4_096     # h11 bounds a head only while it is incomplete: one that comes whole in one read would pass
HEAD_S = 10.0
REQUEST_S = 30.0
BACKLOG = 256
CONCURRENT_MAX = 2_000
KEEP_ALIVE_S = 5
GRACEFUL_S = 15


class HttpServer:
    """Serves `app` on `host` and `port`; port 0: a free one."""

    def __init__(self, app: FastAPI, *, host: str, port: int) -> None:
        config = uvicorn.Config(
            _Entrance(app, lambda: self._is_full), host=host, port=port, http=_Punctual, ws="none", log_config=None, access_log=False,
            server_header=False, proxy_headers=False, lifespan="on", h11_max_incomplete_event_size=HEAD_BYTES_MAX,
            backlog=BACKLOG, timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=GRACEFUL_S,
        )  # fmt: skip
        self._listener = Listener(config, what="the gateway", setting="EVENTPLAT_GATEWAY_PORT", host=host, port=port)

    @property
    def url(self) -> str:
        """As "http://127.0.0.1:8000"."""
        return self._listener.url

    async def start(self) -> None:
        """See `Listener.start`."""
        await self._listener.start()

    async def stop(self) -> None:
        """See `Listener.stop`."""
        await self._listener.stop()

    @property
    def _is_full(self) -> bool:
        """Whether there are more connections, or requests with this one, than may be at once."""
        state = self._listener.server.server_state
        return len(state.connections) > CONCURRENT_MAX or len(state.tasks) > CONCURRENT_MAX


class _Entrance:
    """Middleware: a request has one end, and there is room for it."""

    def __init__(self, app: FastAPI, is_full: Callable[[], bool]) -> None:
        self._app, self._is_full = app, is_full

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        close = (b"connection", b"close")
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
            detail = "Content-Length and Transfer-Encoding exclude each other"
            await write(send, problem_reply(400, "Bad Request", GatewayError.code, detail, "Send one of them", [close], {}))
        elif self._is_full():
            reply = of_error(GatewayFull(f"{CONCURRENT_MAX} requests are being answered"))
            await write(send, replace(reply, headers=[*reply.headers, close]))
        else:
            await self._app(scope, receive, send)


class _Punctual(H11Protocol):
    """A connection whose requests have to arrive in time."""

    _deadline: asyncio.TimerHandle | None = None
    _has_head = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._allow(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and self.conn.their_state is h11.IDLE:
            self._allow(HEAD_S)
        while data and not self.transport.is_closing():
            size = SLICE_BYTES if self.conn.their_state is h11.IDLE else len(data)
            super().data_received(data[:size])
            data = data[size:]
        self._judge()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._judge()

    def _judge(self) -> None:
        """Restart, keep or end the time, by what has arrived."""
        state = self.conn.their_state
        if state is h11.SEND_BODY and not self._has_head:
            self._has_head = True
            self._allow(REQUEST_S)
        elif state is not h11.SEND_BODY and (state is not h11.IDLE or self._has_head):
            self._has_head = False
            self._disarm()

    def _allow(self, seconds: float) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(seconds, self._expire)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        logger.info("closed a connection whose request did not arrive in time: %s", self.client)
        self.transport.abort()
