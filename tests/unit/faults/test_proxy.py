"""The proxy passes everything on, and fails as it is told: the campaigns' faults have happened."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from random import Random

import pytest
from pika import BasicProperties
from pika.frame import Header, Method
from pika.spec import Basic

from tests.faults.frames import Frames, consumer_tag, is_confirm, message_id
from tests.faults.proxy import Proxy, Wire

ID = "01a21441-d4ba-7dd8-9ef0-e3f991573329"
ACK = Method(1, Basic.Ack(7, multiple=True)).marshal()
DELIVER = Method(1, Basic.Deliver("q#1", 7, False, "events", "a.b")).marshal()
EVERYTHING = BasicProperties(
    content_type="application/json", content_encoding="utf8", headers={"key": "k", "n": 1}, delivery_mode=2, priority=3,
    correlation_id="c", reply_to="r", expiration="60000", message_id=ID, timestamp=1, type="t", user_id="u", app_id="a",
)  # fmt: skip


def test_whole_frames_come_out_however_the_bytes_come_in() -> None:
    stream, chance = ACK + DELIVER + ACK, Random(1)
    for _ in range(50):
        cuts = sorted(chance.sample(range(len(stream)), 5))
        pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        frames = Frames()
        assert [frame for piece in pieces for frame in frames.feed(piece)] == [ACK, DELIVER, ACK]


@pytest.mark.parametrize("properties", [EVERYTHING, BasicProperties(message_id=ID), BasicProperties(headers={}, message_id=ID, type="t")])
def test_the_message_id_is_found_behind_whatever_stands_before_it(properties: BasicProperties) -> None:
    assert message_id(Header(1, 2, properties).marshal()) == ID


def test_a_header_without_an_id_and_other_frames_have_none() -> None:
    assert message_id(Header(1, 2, BasicProperties(type="t")).marshal()) is None
    assert message_id(ACK) is None


def test_confirms_and_deliveries_are_told_apart() -> None:
    assert (is_confirm(ACK), is_confirm(DELIVER)) == (True, False)
    assert (consumer_tag(ACK), consumer_tag(DELIVER)) == (None, "q#1")


# --- a server behind it ---------------------------------------------------------------------------


class Server:
    """Says `greeting`, then what it hears."""

    def __init__(self, greeting: bytes = b"") -> None:
        self.greeting, self.heard = greeting, b""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.greeting)
        while data := await reader.read(65_536):
            self.heard += data
            writer.write(data)
        writer.close()


def behind(server: Server, test: Callable[[Proxy], Awaitable[None]], *, wire: Wire | None = None, cut_after: int | None = None) -> None:
    async def run() -> None:
        listening = await asyncio.start_server(server, "127.0.0.1", 0)
        async with listening, Proxy(listening.sockets[0].getsockname()[1], Random(1), wire=wire, cut_after=cut_after) as proxy:
            await asyncio.wait_for(test(proxy), 20)

    asyncio.run(run())


def test_what_is_sent_arrives_and_an_end_is_an_end() -> None:
    async def test(proxy: Proxy) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"x" * 1_000_000)
        assert await reader.readexactly(1_000_000) == b"x" * 1_000_000
        writer.close()
        assert proxy.cuts == 0

    behind(Server(), test)


def test_a_connection_is_reset_after_its_bytes_and_a_part_of_them_arrived() -> None:
    server = Server()

    async def test(proxy: Proxy) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises(ConnectionError):
            while True:
                writer.write(b"x" * 1_000)
                await writer.drain()
                await reader.read(1_000)
        assert proxy.cuts == 1
        assert server.heard

    behind(server, test, cut_after=50_000)


def test_one_that_is_told_to_cuts_a_connection_now_and_the_next_one_lives() -> None:
    async def test(proxy: Proxy) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        assert proxy.cut()
        with pytest.raises(ConnectionError):
            await reader.read(1)
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"y")
        assert await reader.read(1) == b"y"
        writer.close()

    behind(Server(), test)


def test_nothing_passes_a_silent_link_until_it_speaks_again() -> None:
    server = Server()

    async def test(proxy: Proxy) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        proxy.is_silent = True
        writer.write(b"x")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)
        assert server.heard == b""
        proxy.heal()
        assert await reader.read(1) == b"x"
        writer.close()

    behind(server, test)


def test_confirms_are_swallowed_and_everything_else_passes() -> None:
    wire = Wire(swallows=True)

    async def test(proxy: Proxy) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await reader.readexactly(len(DELIVER)) == DELIVER
        assert wire.swallowed == 2
        writer.close()

    behind(Server(ACK + ACK + DELIVER), test, wire=wire)


def test_deliveries_are_counted_by_queue_and_a_message_that_comes_again_is_known() -> None:
    wire = Wire({"q"})
    other = Method(1, Basic.Deliver("r#1", 7, False, "events", "a.b")).marshal()
    header = Header(1, 2, EVERYTHING).marshal()
    body = struct.pack(">BHI", 3, 1, 2) + b"{}" + b"\xce"
    said = (DELIVER + header + body) * 3 + other + header + body

    async def test(proxy: Proxy) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await reader.readexactly(len(said)) == said
        assert (wire.deliveries, wire.again) == ({"q": 3}, {"q": 2})
        writer.close()

    behind(Server(said), test, wire=wire)
