"""`eventplat health`: 0 only for a 200; whatever else is there is a line and exit code 1."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.unit.cli.terminal import Terminal


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A port on which one connection is answered with these bytes; yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/health/ready"
        thread.join()


def test_a_process_that_is_ready_is_exit_code_0(terminal: Terminal) -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nready") as url:
        said = terminal.type("health", url)

    assert (said.code, said.out, said.err) == (0, "ready\n", "")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno",
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
    ],
    ids=["503", "hangs up", "no HTTP", "half an answer", "broken chunks"],
)
def test_anything_else_is_not_ready(answer: bytes, terminal: Terminal) -> None:
    with answering(answer) as url:
        said = terminal.type("health", url)

    assert said.code == 1
    assert said.out == ""
    assert said.err.startswith("not ready: ")


def test_nobody_there_is_not_ready(terminal: Terminal) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    said = terminal.type("health", f"http://127.0.0.1:{port}/")

    assert said.code == 1
    assert said.err.startswith("not ready: ")


@pytest.mark.parametrize("url", ["http://", "http://127.0.0.1:port/", "http://[", "http://127.0.0.1:1/a b"])
def test_a_url_that_cannot_be_asked_is_not_ready(url: str, terminal: Terminal) -> None:
    said = terminal.type("health", url)

    assert said.code == 1
    assert said.err.startswith("not ready: ")


@pytest.mark.parametrize("url", ["ftp://host/", "file:///etc/passwd", "host:8000", ""])
def test_only_http_is_asked(url: str, terminal: Terminal) -> None:
    said = terminal.type("health", url)

    assert said.code == 1
    assert said.err == f"Error: {url!r} is no http URL\n"
