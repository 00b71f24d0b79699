"""Monitor: a small port of a process for whoever watches it: /metrics, /health/live, /health/ready. Plain ASGI.

    EVENTPLAT_METRICS_PORT=9100

Live      the loop answers: restart the process when it does not.
Ready     503 with what is missing: send it no work, and do not restart it, since it is on its way back.

It shows names of handlers and queues, so it listens on loopback unless told otherwise.

Next: process
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Generator, Mapping, MutableMapping, Sequence
from typing import Any

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from eventplat.errors import SettingsError

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

GRACEFUL_S = 2


class MonitorApp:
    """The ASGI app.

    Args:
        missing: What keeps each part of this process from its work, by part: empty when all is well.
    """

    def __init__(self, missing: Callable[[], Mapping[str, Sequence[str]]]) -> None:
        self._missing = missing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        status, kind, body = self._answer(scope["method"], scope["path"])
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _answer(self, method: str, path: str) -> tuple[int, str, bytes]:
        if method not in ("GET", "HEAD"):
            return 405, "text/plain", b"GET /metrics, /health/live or /health/ready\n"
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest()
        if path == "/health/live":
            return 200, "application/json", b'{"status": "live"}'
        if path == "/health/ready":
            missing = {part: list(what) for part, what in self._missing().items() if what}
            body = {"status": "not ready" if missing else "ready", "missing": missing}
            return 503 if missing else 200, "application/json", json.dumps(body).encode()
        return 404, "text/plain", b"there are /metrics, /health/live and /health/ready\n"


class Monitor:
    """Serves a `MonitorApp` on `host` and `port`; port 0: a free one."""

    def __init__(self, app: MonitorApp, *, host: str, port: int) -> None:
        self._server = _Server(uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, lifespan="off", ws="none",
            timeout_graceful_shutdown=GRACEFUL_S, limit_concurrency=32,
        ))  # fmt: skip
        self._host, self._port = host, port
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """As "http://127.0.0.1:9100"."""
        return f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{self._port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            SettingsError: The port is taken.
        """
        listener = socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self._host, self._port))
        except OSError as error:
            listener.close()
            where = f"{self._host}:{self._port}"
            raise SettingsError(f"metrics cannot be served on {where}: {error.strerror}. Set EVENTPLAT_METRICS_PORT") from None
        self._port = listener.getsockname()[1]
        self._task = asyncio.create_task(self._serve(listener), name="monitor")
        logger.info("metrics: %s/metrics", self.url)

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await self._task

    async def _serve(self, listener: socket.socket) -> None:
        with listener:
            await self._server.serve([listener])


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are the process's business: uvicorn would take them over."""
        yield
