"""Listener: uvicorn inside a running loop, started and stopped as a component.

The port is taken before anything else, so that a taken one is an error with the setting's name and not a line in a log.

Next: observability.monitor, gateway.server
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator

import uvicorn

from eventplat.errors import SettingsError


class Listener:
    """Serves what `config` says on `host` and `port`; port 0: a free one.

    Args:
        what: Listens, as "the gateway".
        setting: Names the port, as "EVENTPLAT_GATEWAY_PORT".
    """

    def __init__(self, config: uvicorn.Config, *, what: str, setting: str, host: str, port: int) -> None:
        self.server: uvicorn.Server = _Server(config)
        self._what, self._setting, self._host, self._port = what, setting, host, port
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """As "http://127.0.0.1:8000"."""
        return f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{self._port}"

    async def start(self) -> None:
        """Return once it accepts connections.

        Raises:
            SettingsError: The port is taken, or the app did not start.
        """
        listener = socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self._host, self._port))
        except OSError as error:
            listener.close()
            where = f"{self._host}:{self._port}"
            raise SettingsError(f"{self._what} cannot listen on {where}: {error.strerror}. Set {self._setting}") from None
        self._port = listener.getsockname()[1]
        self._task = asyncio.create_task(self._serve(listener), name=self._what)
        while not self.server.started:
            if self._task.done():
                await self._task
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Finish what is being answered, then close."""
        self.server.should_exit = True
        if self._task is not None:
            await self._task

    async def _serve(self, listener: socket.socket) -> None:
        with listener:
            try:
                await self.server.serve([listener])
            except SystemExit:  # uvicorn's answer to an app that does not start: it would end this process, not only the server
                raise SettingsError(f"{self._what} did not start; the log says why") from None


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are the process's business (`lifecycle`): uvicorn would take them over."""
        yield
