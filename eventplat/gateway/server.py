"""Server: uvicorn inside a running loop, started and stopped as a component.

Limits are set rather than left at their defaults: connections that idle are closed after 5 s, a request's head has
16 KiB, and no header tells what serves it.
"""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from fastapi import FastAPI

from eventplat.errors import SettingsError

HEAD_BYTES_MAX = 16_384
CONCURRENT_MAX = 2_000
KEEP_ALIVE_S = 5
GRACEFUL_S = 15


class HttpServer:
    """Serves `app` on `host` and `port`; port 0: a free one."""

    def __init__(self, app: FastAPI, *, host: str, port: int) -> None:
        config = uvicorn.Config(
            app, host=host, port=port, log_config=None, access_log=False, server_header=False, proxy_headers=False, lifespan="on",
            h11_max_incomplete_event_size=HEAD_BYTES_MAX, limit_concurrency=CONCURRENT_MAX, timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACEFUL_S,
        )  # fmt: skip
        self._server = _Server(config)
        self._host, self._port = host, port
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """As "http://127.0.0.1:8000"."""
        return f"http://{self._host}:{self._port}"

    async def start(self) -> None:
        """Return once it accepts connections.

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
            raise SettingsError(f"the gateway cannot listen on {where}: {error.strerror}. Set EVENTPLAT_GATEWAY_PORT") from None
        self._port = listener.getsockname()[1]
        self._task = asyncio.create_task(self._server.serve([listener]), name="http")
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise SettingsError("the gateway did not start; the log says why")
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Finish what is being answered, then close."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """Signals are the process's business (`lifecycle`)."""
