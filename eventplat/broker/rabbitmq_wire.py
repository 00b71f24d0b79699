"""Wire: pika's connection, with the frames of one loop turn gathered into few writes.

Stock pika hands each frame to the socket by itself: three system calls for a message, a third of a
publisher's time. Here frames wait until the turn ends and leave joined, in order, in pieces of at most
`PIECE_BYTES`: a larger piece would be copied again at every partial send. Reads take 64 KiB, not 4.

Both lean on names that pika does not promise. They are looked for once; where one is missing the stock
connection is used, slower and no less correct.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from pika.adapters.asyncio_connection import AsyncioConnection

logger = logging.getLogger(__name__)

PIECE_BYTES = 65_536
READ_BYTES = 65_536


class GatheringConnection(AsyncioConnection):
    """Writes once per loop turn; otherwise pika's own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._gathered: list[bytes] = []
        super().__init__(*args, **kwargs)

    def _output_marshaled_frames(self, marshaled_frames: Sequence[bytes]) -> None:
        if not self._gathered:
            self.ioloop.call_soon(self._flush)
        self._gathered.extend(marshaled_frames)
        self.frames_sent += len(marshaled_frames)

    def _flush(self) -> None:
        frames, self._gathered = self._gathered, []
        transport: Any = getattr(self, "_transport", None)
        if transport is None:  # lost in this turn: what was not written goes with the connection, as in stock pika
            return
        for piece in pieces(frames):
            self.bytes_sent += len(piece)
            transport.write(piece)


def pieces(frames: Sequence[bytes]) -> list[bytes]:
    """`frames` joined in order; a piece is at most `PIECE_BYTES` long unless one frame alone is longer."""
    joined: list[bytes] = []
    run: list[bytes] = []
    length = 0
    for frame in frames:
        if run and length + len(frame) > PIECE_BYTES:
            joined.append(b"".join(run))
            run, length = [], 0
        run.append(frame)
        length += len(frame)
    if run:
        joined.append(b"".join(run))
    return joined


def connection_class() -> type[AsyncioConnection]:
    """The gathering connection where this pika can carry it, else pika's own."""
    if all(hasattr(AsyncioConnection, name) for name in ("_output_marshaled_frames", "_adapter_emit_data")):
        return GatheringConnection
    logger.warning("this pika writes in another way: frames are not gathered")
    return AsyncioConnection


def read_more(connection: AsyncioConnection) -> None:
    """Let an open connection take `READ_BYTES` from its socket at a time."""
    transport: Any = getattr(connection, "_transport", None)
    if hasattr(transport, "_MAX_RECV_BYTES"):
        transport._MAX_RECV_BYTES = READ_BYTES  # noqa: SLF001 - looked for above


def cut(connection: AsyncioConnection) -> None:
    """Drop the stream without a goodbye: a broker under an alarm does not read ours."""
    disconnect = getattr(connection, "_adapter_disconnect_stream", None)
    if disconnect is not None and not connection.is_closed:
        disconnect()
