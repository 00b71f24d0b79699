"""Monitor: a small port of a process for whoever watches it: /metrics, /health/live, /health/ready. Plain ASGI.

    EVENTPLAT_METRICS_PORT=9100

Live      the loop answers: restart the process when it does not.
Ready     503 with what is missing: send it no work, and do not restart it, since it is on its way back.

It shows names of handlers and queues, so it listens on loopback unless told otherwise.

Next: observability.listener
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from eventplat.observability.listener import Listener

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

GRACEFUL_S = 2
CONCURRENT_MAX = 32


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


def monitor(app: MonitorApp, *, host: str, port: int) -> Listener:
    """What serves `app` on `host` and `port`; port 0: a free one."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, lifespan="off", ws="none",
        timeout_graceful_shutdown=GRACEFUL_S, limit_concurrency=CONCURRENT_MAX,
    )  # fmt: skip
    return Listener(config, what="the monitor", setting="EVENTPLAT_METRICS_PORT", host=host, port=port)
