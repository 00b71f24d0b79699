"""Wire: pika's connection, with the frames of one loop turn gathered into few writes and the plain ones made here.

Stock pika hands each frame to the socket by itself: three system calls for a message, a third of a
publisher's time. Here frames wait until the turn ends and leave joined, in order, in pieces of at most
`PIECE_BYTES`: a larger piece would be copied again at every partial send. Reads take 64 KiB, not 4.

Direct    what is plain is written and read in one pass (`broker.rabbitmq_frames`), at the same place in the stream as
          pika would: a delivery to a consumer that asked for it (`deliver_directly`), a publish (`send_directly`) and its
          ack (`confirm_directly`). Everything else, each channel's and connection's state included, stays pika's.

All of it leans on names that pika does not promise. They are looked for once; where one is missing the stock
connection is used, slower and no less correct.

Next: broker.rabbitmq_frames
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel as PikaChannel
from pika.exceptions import ChannelWrongStateError

from eventplat.broker.rabbitmq_frames import Arrived, read_acks, read_deliveries, to_frames
from eventplat.broker.transport import Outgoing

logger = logging.getLogger(__name__)

PIECE_BYTES = 65_536
READ_BYTES = 65_536
FRAME_BODY_MIN = 4_096 - 8     # what every peer of AMQP has to take
LEANS_ON = (
    "_output_marshaled_frames", "_adapter_emit_data", "_on_data_available", "_read_frame", "_trim_frame_buffer", "_process_frame",
)  # fmt: skip


class GatheringConnection(AsyncioConnection):
    """Writes once per loop turn; otherwise pika's own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._gathered: list[bytes] = []
        self.receivers: dict[tuple[int, bytes], Callable[[Arrived], None]] = {}   # by channel and consumer tag
        self.confirmed: dict[int, Callable[[int, bool], None]] = {}               # by channel
        super().__init__(*args, **kwargs)

    def write(self, frames: bytes) -> None:
        """Frames of one message, whole."""
        self._output_marshaled_frames([frames])

    def _on_data_available(self, data_in: bytes) -> None:
        stock: Any = self
        stock._frame_buffer += data_in
        while stock._frame_buffer:
            arrived, length = read_deliveries(stock._frame_buffer, self.receivers) if self.receivers else ([], 0)
            if length:
                stock._trim_frame_buffer(length)
                for each in arrived:
                    self._hand_over(each)
                continue
            acks, length = read_acks(stock._frame_buffer, self.confirmed) if self.confirmed else ([], 0)
            if length:
                stock._trim_frame_buffer(length)
                for channel, tag, multiple in acks:
                    self._confirm(channel, tag, multiple)
                continue
            consumed, frame = stock._read_frame()
            if not frame:
                return
            stock._trim_frame_buffer(consumed)
            stock._process_frame(frame)

    def _hand_over(self, arrived: Arrived) -> None:
        receive = self.receivers.get((arrived.channel, arrived.consumer_tag))
        if receive is not None:  # else its channel has ended a moment ago, and the broker keeps it
            receive(arrived)

    def _confirm(self, channel: int, tag: int, multiple: bool) -> None:
        confirmed = self.confirmed.get(channel)
        if confirmed is not None:  # as above
            confirmed(tag, multiple)

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
    if all(hasattr(AsyncioConnection, name) for name in LEANS_ON):
        return GatheringConnection
    logger.warning("this pika writes in another way: frames are not gathered")
    return AsyncioConnection


def send_directly(channel: PikaChannel, message: Outgoing) -> bool:
    """Write a plain message; False where pika has to.

    Raises:
        ChannelWrongStateError: The channel is not open.
    """
    connection = channel.connection
    if not isinstance(connection, GatheringConnection):
        return False
    if not channel.is_open:
        raise ChannelWrongStateError("the channel is not open")
    frames = to_frames(channel.channel_number, message, body_max=getattr(connection, "_body_max_length", FRAME_BODY_MIN))
    if frames is None:
        return False
    connection.write(frames)
    return True


def deliver_directly(channel: PikaChannel, consumer_tag: str, receive: Callable[[Arrived], None]) -> Callable[[], None]:
    """Hand plain deliveries of a consumer to `receive`; pika's own callback gets the others, and all from a stock connection.

    Returns:
        What to call when the consumer or its channel ends.
    """
    connection = channel.connection
    if not isinstance(connection, GatheringConnection):
        return _nothing
    key = (int(channel.channel_number), consumer_tag.encode())
    connection.receivers[key] = receive

    def forget() -> None:
        connection.receivers.pop(key, None)

    return forget


def confirm_directly(channel: PikaChannel, confirmed: Callable[[int, bool], None]) -> Callable[[], None]:
    """Tell `confirmed` of the acks of what was published on `channel`: tag, and whether of all before it too.

    Pika's own callback gets the nacks, and the acks from a stock connection.

    Returns:
        What to call when the channel ends.
    """
    connection = channel.connection
    if not isinstance(connection, GatheringConnection):
        return _nothing
    number = int(channel.channel_number)
    connection.confirmed[number] = confirmed

    def forget() -> None:
        if connection.confirmed.get(number) is confirmed:  # else the number is another channel's by now
            del connection.confirmed[number]

    return forget


def read_more(connection: AsyncioConnection) -> None:
    """Let an open connection take `READ_BYTES` from its socket at a time."""
    transport: Any = getattr(connection, "_transport", None)
    if hasattr(transport, "_MAX_RECV_BYTES"):
        transport._MAX_RECV_BYTES = READ_BYTES


def cut(connection: AsyncioConnection) -> None:
    """Drop the stream without a goodbye: a broker under an alarm does not read ours."""
    disconnect = getattr(connection, "_adapter_disconnect_stream", None)
    if disconnect is not None and not connection.is_closed:
        disconnect()


def _nothing() -> None:
    """A stock connection has nothing to forget."""
