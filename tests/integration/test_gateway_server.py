"""The HTTP server on a real socket: slow, broken and smuggled requests, and how it starts and stops."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from eventplat.errors import SettingsError
from eventplat.gateway import server as serving
from eventplat.gateway.server import HEAD_BYTES_MAX, SLICE_BYTES, HttpServer
from eventplat.messages.envelope import Envelope
from tests.unit.gateway.house import House, done, is_problem

BODY = b'{"order_id": "o-1", "quantity": 3}'
POST = b"POST /orders HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\n"
GOOD = POST + b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
PATIENCE_S = 10.0


@asynccontextmanager
async def served(folder: Path, **settings: object) -> AsyncIterator[tuple[House, HttpServer]]:
    house = House(folder, **settings)
    await house.open()
    wrapped = FastAPI()                      # the house has begun the gateway's lifespan already
    wrapped.mount("/", house.app)
    server = HttpServer(wrapped, host="127.0.0.1", port=0)
    await server.start()
    try:
        yield house, server
    finally:
        await server.stop()
        await house.close()


async def talk(server: HttpServer, *parts: bytes) -> bytes:
    """Send the parts, then read until the server closes or is silent for a while."""
    reader, writer = await connect(server)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await until_end(reader)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def connect(server: HttpServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = server.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def until_end(reader: asyncio.StreamReader, silent_s: float = 1.0) -> bytes:
    got = b""
    while True:
        try:
            part = await asyncio.wait_for(reader.read(65_536), silent_s)
        except (TimeoutError, ConnectionError):
            return got
        if not part:
            return got
        got += part


async def answers(server: HttpServer) -> bool:
    """The canary: whether an honest client is served."""
    async with httpx.AsyncClient(base_url=server.url) as client:
        return (await client.post("/orders", content=BODY, headers={"Content-Type": "application/json"}, timeout=3)).status_code == 201


def test_who_comes_when_the_gateway_is_full_is_told_so_as_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "CONCURRENT_MAX", 1)

    async def run() -> None:
        async with served(tmp_path) as (_, server):
            reader, writer = await connect(server)
            writer.write(POST)  # a head that is not whole yet holds its place
            await writer.drain()
            async with httpx.AsyncClient(base_url=server.url) as client:
                refused = await client.post("/orders", content=BODY, headers={"Content-Type": "application/json"})
            problem = is_problem(refused, 503, "EP815")
            assert (refused.headers["retry-after"], refused.headers["connection"]) == ("1", "close")
            assert problem["next"]
            writer.close()
            await writer.wait_closed()
            while not await answers(server):
                await asyncio.sleep(0.01)
            assert await reader.read() == b""

    asyncio.run(run())


def test_an_honest_request_is_answered_without_saying_what_serves(tmp_path: Path) -> None:
    async def run() -> None:
        async with served(tmp_path) as (_, server):
            got = await talk(server, GOOD)
            head, _, body = got.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 201")
            assert body == done(Envelope(id="", type="", body=b"", correlation_id=""))[1]
            assert b"\r\nserver:" not in head.lower()

    asyncio.run(run())


SMUGGLED = b"GET /health/live HTTP/1.1\r\nHost: g\r\n\r\n"
MALFORMED = {
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + SMUGGLED,
    "two lengths in one": POST + b"Content-Length: 5, 6\r\n\r\n" + SMUGGLED,
    "a negative length": POST + b"Content-Length: -1\r\n\r\n" + SMUGGLED,
    "a signed length": POST + b"Content-Length: +5\r\n\r\n" + SMUGGLED,
    "a hexadecimal length": POST + b"Content-Length: 0x5\r\n\r\n" + SMUGGLED,
    "a length of 5000 digits": POST + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n" + SMUGGLED,
    "unknown encoding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunked, identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a space before the colon": POST + b"Content-Length : 5\r\n\r\n" + SMUGGLED,
    "a folded first header": b"POST /orders HTTP/1.1\r\n folded: x\r\nHost: g\r\n\r\n" + SMUGGLED,
    "a chunk size that is none": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + SMUGGLED,
    "a chunk size of 17 digits": POST + b"Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\n" + SMUGGLED,
    "a bad chunk end": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcdeXX" + SMUGGLED,
    "a chunk extension without end": POST + b"Transfer-Encoding: chunked\r\n\r\n5;" + b"x" * 70_000,
    "no host": b"POST /orders HTTP/1.1\r\n\r\n" + SMUGGLED,
    "two hosts": b"POST /orders HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + SMUGGLED,
    "NUL in a header": POST + b"X: a\x00b\r\n\r\n" + SMUGGLED,
    "CR in a header": POST + b"X: a\rb\r\n\r\n" + SMUGGLED,
    "NUL in the path": b"GET /orders\x00 HTTP/1.1\r\nHost: g\r\n\r\n" + SMUGGLED,
    "no version": b"GET /orders\r\n\r\n" + SMUGGLED,
    "a version that is none": b"GET /orders HTTP/x\r\nHost: g\r\n\r\n" + SMUGGLED,
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + SMUGGLED,
    "a header name that is none": POST + b"X[]: 1\r\n\r\n" + SMUGGLED,
    "a head over its limit": POST + b"X: " + b"a" * (HEAD_BYTES_MAX + SLICE_BYTES) + b"\r\n\r\n" + SMUGGLED,
    "ten thousand headers": POST + b"".join(b"X%d: 1\r\n" % number for number in range(10_000)) + b"\r\n" + SMUGGLED,
    "a URL of 64 KiB": b"GET /" + b"a" * 65_536 + b" HTTP/1.1\r\nHost: g\r\n\r\n" + SMUGGLED,
    "a head without end": POST + b"a" * 100_000,
}


def test_a_malformed_request_is_refused_closed_and_never_two(tmp_path: Path) -> None:
    async def run() -> None:
        async with served(tmp_path) as (house, server):
            got = dict(zip(MALFORMED, await asyncio.gather(*(talk(server, wrong) for wrong in MALFORMED.values())), strict=True))
            assert [name for name, said in got.items() if said and not said.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413"))] == []
            assert [name for name, said in got.items() if b'"live"' in said or said.count(b"HTTP/1.1 ") > 1] == []
            assert house.received == []
            assert await answers(server)

    asyncio.run(run())


def test_what_comes_a_byte_at_a_time_is_closed_and_others_are_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEAD_S", 0.5)
    monkeypatch.setattr(serving, "REQUEST_S", 0.8)

    async def drip(server: HttpServer, start: bytes) -> bytes:
        reader, writer = await connect(server)
        reading = asyncio.create_task(reader.read())
        try:
            writer.write(start)
            while not reading.done():
                writer.write(b"a")
                await asyncio.wait([reading], timeout=0.05)
            return reading.result()
        except ConnectionError:
            return b""
        finally:
            reading.cancel()
            writer.close()

    async def run() -> None:
        async with served(tmp_path) as (house, server):
            starts = [b"", b"P", POST, POST + b"Content-Length: 1000\r\n\r\n", POST + b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n"] * 40
            dripping = [asyncio.create_task(drip(server, start)) for start in starts]
            await asyncio.sleep(0.1)
            assert await answers(server)
            async with asyncio.timeout(PATIENCE_S):
                assert set(await asyncio.gather(*dripping)) == {b""}
            assert len(house.received) == 1

    asyncio.run(run())


def test_a_connection_that_says_nothing_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEAD_S", 0.2)

    async def run() -> None:
        async with served(tmp_path) as (_, server):
            reader, writer = await connect(server)
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises((ConnectionError, EOFError)):
                    await reader.readexactly(1)
            writer.close()

    asyncio.run(run())


def test_a_kept_connection_and_a_long_answer_are_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEAD_S", 0.3)
    monkeypatch.setattr(serving, "REQUEST_S", 0.3)

    async def run() -> None:
        async with served(tmp_path) as (house, server):
            house.answer = lambda _: None
            reader, writer = await connect(server)
            for _ in range(3):
                writer.write(GOOD[:50])
                await asyncio.sleep(0.1)
                writer.write(GOOD[50:])
                count = len(house.received)
                while len(house.received) == count:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.5)     # longer than a request may take to arrive
                await house.reply(house.received[-1], *done(house.received[-1]))
                assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 201")
            writer.close()

    asyncio.run(run())


def test_pipelined_requests_are_answered_in_their_order(tmp_path: Path) -> None:
    async def run() -> None:
        async with served(tmp_path) as (_, server):
            got = await talk(server, GOOD + SMUGGLED + GOOD)
            assert re.findall(rb"HTTP/1\.1 (\d+)", got) == [b"201", b"200", b"201"]

    asyncio.run(run())


@pytest.mark.parametrize("is_chunked", [True, False])
def test_a_body_without_end_is_413_and_takes_no_memory(is_chunked: bool, tmp_path: Path) -> None:
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n" if is_chunked else b" " * 65_536
    head = POST + (b"Transfer-Encoding: chunked\r\n\r\n" if is_chunked else b"Content-Length: 1000000000\r\n\r\n")

    async def run() -> None:
        async with served(tmp_path) as (house, server):
            reader, writer = await connect(server)
            writer.write(head)
            for _ in range(8):  # 512 KiB, twice the limit
                writer.write(chunk)
            async with asyncio.timeout(PATIENCE_S):
                got = await reader.readuntil(b"\r\n\r\n")
            assert got.startswith(b"HTTP/1.1 413")
            writer.close()
            assert house.received == []
            assert await answers(server)

    asyncio.run(run())


def test_a_thousand_clients_that_hang_up_leave_nothing_behind(tmp_path: Path) -> None:
    async def hang_up(server: HttpServer) -> None:
        _, writer = await connect(server)
        writer.write(GOOD)
        await writer.drain()
        writer.transport.abort()

    async def run() -> None:
        async with served(tmp_path) as (house, server):
            before = len(asyncio.all_tasks())
            for _ in range(20):
                await asyncio.gather(*(hang_up(server) for _ in range(50)))
            async with asyncio.timeout(PATIENCE_S):
                while len(asyncio.all_tasks()) > before:
                    await asyncio.sleep(0.01)
            assert house.app.state.forwarder.requester.waiting == 0
            assert await answers(server)

    asyncio.run(run())


def test_stop_finishes_what_is_being_answered_and_takes_nothing_new(tmp_path: Path) -> None:
    async def run() -> None:
        async with served(tmp_path) as (house, server):
            house.answer = lambda _: None
            asking = asyncio.create_task(talk(server, GOOD))
            while not house.received:
                await asyncio.sleep(0.01)
            stopping = asyncio.create_task(server.stop())
            with pytest.raises(ConnectionError):
                while True:
                    (await connect(server))[1].close()
                    await asyncio.sleep(0.01)

            await house.reply(house.received[0], *done(house.received[0]))

            assert (await asking).startswith(b"HTTP/1.1 201")
            await stopping

    asyncio.run(run())


def test_signals_stay_the_processes_own(tmp_path: Path) -> None:
    async def run() -> None:
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        async with served(tmp_path):
            assert {number: signal.getsignal(number) for number in before} == before

    asyncio.run(run())


def test_a_taken_port_is_told_with_the_setting_to_change(tmp_path: Path) -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            server = HttpServer(FastAPI(), host="127.0.0.1", port=taken.getsockname()[1])
            with pytest.raises(SettingsError, match="EVENTPLAT_GATEWAY_PORT"):
                await server.start()
            await server.stop()

    asyncio.run(run())


def test_an_app_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    @asynccontextmanager
    async def broken(app: FastAPI) -> AsyncIterator[None]:
        if app.title:
            raise RuntimeError("no broker")
        yield

    async def run() -> None:
        with pytest.raises(SettingsError, match="did not start"):
            await HttpServer(FastAPI(lifespan=broken), host="127.0.0.1", port=0).start()

    asyncio.run(run())


def test_ipv6_is_served_under_a_url_that_clients_take() -> None:
    async def run() -> None:
        app = FastAPI()
        app.get("/")(lambda: "here")
        server = HttpServer(app, host="::1", port=0)
        await server.start()
        try:
            async with httpx.AsyncClient() as client:
                assert json.loads((await client.get(server.url)).content) == "here"
        finally:
            await server.stop()

    asyncio.run(run())
