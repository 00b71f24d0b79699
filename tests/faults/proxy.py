"""Proxy: a TCP link that fails as it is told to.

Cut       both ends are reset in the middle of whatever passes: now, or after a number of bytes drawn for each connection.
Slow      each piece waits.
Silent    nothing passes, in neither direction, and nobody is told: packets are lost, sent again and arrive in the end.
Unheard   confirms of RabbitMQ are swallowed: the broker has the message, and its publisher never hears so.
Counted   deliveries of RabbitMQ by queue and message id, so that what really came again is known from the wire.

It is one more hop: what it does not understand it passes on byte for byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from random import Random

from tests.faults import frames

PIECE_BYTES = 65_536
TICK_S = 0.02
RESET = struct.pack("ii", 1, 0)        # SO_LINGER of zero seconds: RST instead of FIN


@dataclass
class Wire:
    """What RabbitMQ said to its clients.

    Args:
        queues: Whose deliveries are counted.
    """

    queues: Collection[str] = ()
    deliveries: Counter[str] = field(default_factory=Counter)   # by queue
    again: Counter[str] = field(default_factory=Counter)        # those whose message this queue had delivered before
    swallowed: int = 0
    swallows: bool = False                                      # confirms, from now on

    def __post_init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()

    def delivered(self, queue: str, message_id: str) -> None:
        self.deliveries[queue] += 1
        if (queue, message_id) in self._seen:
            self.again[queue] += 1
        self._seen.add((queue, message_id))


class _Listener:
    """Reads one connection's frames on their way to the client."""

    def __init__(self, wire: Wire) -> None:
        self._wire, self._frames = wire, frames.Frames()
        self._begun: dict[int, str] = {}      # by channel: the queue of a delivery whose header comes next

    def pass_on(self, data: bytes) -> bytes:
        return b"".join(frame for frame in self._frames.feed(data) if self._passes(frame))

    def _passes(self, frame: bytes) -> bool:
        if self._wire.swallows and frames.is_confirm(frame):
            self._wire.swallowed += 1
            return False
        tag = frames.consumer_tag(frame)
        if tag is not None:
            self._begun[frames.channel_of(frame)] = tag.rpartition("#")[0]
        elif frame[0] == frames.HEADER and (queue := self._begun.pop(frames.channel_of(frame), "")) in self._wire.queues:
            self._wire.delivered(queue, frames.message_id(frame) or "")
        return True


@dataclass(eq=False)
class _Link:
    """One connection through the proxy."""

    ends: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    bytes_left: float                    # until it is cut

    def reset(self) -> None:
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            end.transport.abort()


class Proxy:
    """Listens on a port of its own in front of `port`.

    Args:
        wire: Where `port` is RabbitMQ's: what is heard and swallowed there.
        cut_after: Bytes after which a connection is cut, on the average; each has its own number. None: never by itself.
    """

    def __init__(self, port: int, chance: Random, *, wire: Wire | None = None, cut_after: int | None = None) -> None:
        self.target, self.wire, self.cut_after = port, wire, cut_after
        self.delay_s, self.is_silent = 0.0, False
        self.cuts = self.connections = 0
        self.port = 0
        self._chance = chance
        self._links: list[_Link] = []
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def cut(self) -> bool:
        """Reset one connection, any of them; False where there is none."""
        if not self._links:
            return False
        self._cut(self._chance.choice(self._links))
        return True

    def heal(self) -> None:
        """From now on it is a good link, also for those that are connected."""
        self.delay_s, self.is_silent, self.cut_after = 0.0, False, None
        if self.wire is not None:
            self.wire.swallows = False
        for link in self._links:
            link.bytes_left = float("inf")

    def _cut(self, link: _Link) -> None:
        if link in self._links:
            self._links.remove(link)
            self.cuts += 1
            link.reset()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        try:
            beyond, behind = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:  # who knocks hears what the server would say: nothing
            writer.transport.abort()
            return
        self.connections += 1
        link = _Link((writer, behind), self._chance.expovariate(1 / self.cut_after) if self.cut_after else float("inf"))
        self._links.append(link)
        ways = [
            asyncio.create_task(self._pump(link, reader, behind, None)),
            asyncio.create_task(self._pump(link, beyond, writer, None if self.wire is None else _Listener(self.wire))),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            if link in self._links:
                self._links.remove(link)
            for end in link.ends:
                end.close()

    async def _pump(self, link: _Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter, listener: _Listener | None) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(PIECE_BYTES):
                while self.is_silent:
                    await asyncio.sleep(TICK_S)
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                passed = data if listener is None else listener.pass_on(data)
                link.bytes_left -= len(passed)
                if link.bytes_left < 0:
                    sink.write(passed[: int(link.bytes_left)])   # all but what is over: mostly inside a frame
                    await sink.drain()
                    await asyncio.sleep(0)
                    self._cut(link)
                    return
                sink.write(passed)
                await sink.drain()
