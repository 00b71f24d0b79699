"""Wire: frames of one turn leave joined and in order, and a pika that cannot carry it is used as it is."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import BasicProperties, frame, spec
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.exceptions import ChannelWrongStateError

from eventplat.broker import rabbitmq_wire
from eventplat.broker.rabbitmq_frames import to_frames
from eventplat.broker.rabbitmq_wire import (
    LEANS_ON,
    PIECE_BYTES,
    READ_BYTES,
    GatheringConnection,
    confirm_directly,
    connection_class,
    cut,
    deliver_directly,
    pieces,
    read_more,
    send_directly,
)
from eventplat.broker.transport import Outgoing
from eventplat.messages.codec import Properties


def test_no_frames_are_no_pieces() -> None:
    assert pieces([]) == []


def test_small_frames_are_one_piece() -> None:
    assert pieces([b"a", b"b", b"c"]) == [b"abc"]


def test_a_piece_ends_before_it_gets_too_long() -> None:
    half = bytes(PIECE_BYTES // 2)

    assert [len(piece) for piece in pieces([half, half, b"x", half])] == [PIECE_BYTES, PIECE_BYTES // 2 + 1]


def test_a_frame_that_is_longer_is_a_piece_of_its_own() -> None:
    long = bytes(PIECE_BYTES + 1)

    assert pieces([b"a", long, b"b"]) == [b"a", long, b"b"]


@given(st.lists(st.binary(max_size=40), max_size=60), st.integers(1, 60))
def test_pieces_are_the_frames_in_order_and_never_too_long(frames: list[bytes], limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rabbitmq_wire, "PIECE_BYTES", limit)
        joined = pieces(frames)

    assert b"".join(joined) == b"".join(frames)
    assert all(len(piece) <= max(limit, *map(len, frames), 0) for piece in joined)
    assert all(len(first) + len(second) > limit for first, second in pairwise(joined))


class Loop:
    """Remembers what is to be called in the next turn."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def call_soon(self, call: Any) -> None:
        self.calls.append(call)

    def turn(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


class Socket:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self._MAX_RECV_BYTES = 4_096

    def write(self, data: bytes) -> None:
        self.written.append(data)


@pytest.fixture
def connection() -> Any:
    """A gathering connection without a broker."""
    bare: Any = GatheringConnection.__new__(GatheringConnection)
    bare._gathered, bare._nbio, bare._transport = [], Loop(), Socket()
    bare.frames_sent = bare.bytes_sent = bare.bytes_received = 0
    bare._frame_buffer, bare.receivers, bare.confirmed, bare._body_max_length = b"", {}, {}, 100
    return bare


@pytest.fixture(autouse=True)
def loop_of_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GatheringConnection, "ioloop", property(lambda bare: bare._nbio), raising=False)


def test_frames_of_one_turn_leave_in_one_write(connection: Any) -> None:
    connection._output_marshaled_frames([b"a", b"b"])
    connection._output_marshaled_frames([b"c"])
    assert connection._transport.written == []

    connection._nbio.turn()

    assert connection._transport.written == [b"abc"]
    assert (connection.frames_sent, connection.bytes_sent) == (3, 3)


def test_the_next_turn_has_a_write_of_its_own(connection: Any) -> None:
    connection._output_marshaled_frames([b"a"])
    connection._nbio.turn()
    connection._output_marshaled_frames([b"b"])
    connection._nbio.turn()

    assert connection._transport.written == [b"a", b"b"]
    assert connection._nbio.calls == []


def test_frames_of_a_connection_that_was_lost_go_with_it(connection: Any) -> None:
    connection._output_marshaled_frames([b"a"])
    connection._transport = None

    connection._nbio.turn()

    assert connection._gathered == []


def test_this_pika_can_carry_it() -> None:
    assert connection_class() is GatheringConnection


@pytest.mark.parametrize("name", LEANS_ON)
def test_a_pika_without_the_names_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str) -> None:
    for each in (known for known in AsyncioConnection.__mro__ if name in vars(known)):
        monkeypatch.delattr(each, name)

    with caplog.at_level(logging.WARNING):
        assert connection_class() is AsyncioConnection

    assert "not gathered" in caplog.text


def test_an_open_connection_reads_more_at_a_time(connection: Any) -> None:
    read_more(connection)

    assert connection._transport._MAX_RECV_BYTES == READ_BYTES


@pytest.mark.parametrize("transport", [None, object()])
def test_a_connection_that_reads_in_another_way_is_left_alone(connection: Any, transport: object) -> None:
    connection._transport = transport

    read_more(connection)

    assert not hasattr(transport, "_MAX_RECV_BYTES")


class Stream:
    def __init__(self, *, is_closed: bool) -> None:
        self.is_closed, self.cuts = is_closed, 0

    def _adapter_disconnect_stream(self) -> None:
        self.cuts += 1


@pytest.mark.parametrize("is_closed", [False, True])
def test_only_an_open_connection_is_cut(is_closed: bool) -> None:
    stream: Any = Stream(is_closed=is_closed)

    cut(stream)

    assert stream.cuts == (not is_closed)


class Channel:
    """A channel as far as the wire looks at it."""

    def __init__(self, connection: Any, *, is_open: bool = True) -> None:
        self.connection, self.is_open, self.channel_number = connection, is_open, 2


PLAIN = Outgoing("e", "k", Properties(message_id="m"), bytes(250))


def test_a_plain_message_is_written_in_frames_that_the_broker_takes(connection: Any) -> None:
    channel: Any = Channel(connection)

    assert send_directly(channel, PLAIN)

    assert connection._gathered == [to_frames(2, PLAIN, body_max=100)]


@pytest.mark.parametrize("is_stock", [False, True])
def test_what_is_not_plain_and_what_a_stock_connection_sends_is_left_to_pika(connection: Any, is_stock: bool) -> None:
    channel: Any = Channel(object() if is_stock else connection)

    assert not send_directly(channel, PLAIN if is_stock else Outgoing("e", "k", Properties(headers={"odd": None}), b""))

    assert connection._gathered == []


def test_nothing_is_written_on_a_channel_that_has_ended(connection: Any) -> None:
    channel: Any = Channel(connection, is_open=False)

    with pytest.raises(ChannelWrongStateError):
        send_directly(channel, PLAIN)


def test_a_stream_in_any_pieces_is_read_to_its_end(connection: Any) -> None:
    tags: list[int] = []
    seen: list[object] = []
    channel: Any = Channel(connection)
    connection._process_frame = seen.append
    deliver_directly(channel, "t", lambda it: tags.append(it.delivery_tag))
    stream = b"".join(delivery(number) for number in range(20))

    for start in range(0, len(stream), 50):
        connection._on_data_available(stream[start : start + 50])

    assert connection._frame_buffer == b""
    assert connection.bytes_received == len(stream)
    assert sorted([*tags, *(it.method.delivery_tag for it in seen if isinstance(it, frame.Method))]) == list(range(20))


def test_whole_deliveries_never_pass_through_pika(connection: Any) -> None:
    events: list[object] = []
    channel: Any = Channel(connection)
    connection._process_frame = lambda it: events.append(type(it).__name__)
    forget = deliver_directly(channel, "t", lambda it: events.append(it.delivery_tag))

    connection._on_data_available(delivery(1) + delivery(2) + frame.Heartbeat().marshal() + delivery(3))
    forget()
    connection._on_data_available(delivery(4))

    assert events == [1, 2, "Heartbeat", 3, "Method", "Header", "Body"]


def test_acks_never_pass_through_pika_and_nacks_do(connection: Any) -> None:
    events: list[object] = []
    channel: Any = Channel(connection)
    connection._process_frame = lambda it: events.append(type(it.method).__name__)
    forget = confirm_directly(channel, lambda tag, multiple: events.append((tag, multiple)))
    said = (spec.Basic.Ack(1), spec.Basic.Ack(7, multiple=True), spec.Basic.Nack(8), spec.Basic.Ack(9))
    stream = b"".join(map(settled, said))

    for part in (stream[:30], stream[30:]):     # in the middle of the second
        connection._on_data_available(part)
    connection._on_data_available(settled(spec.Basic.Ack(1), channel=3))
    forget()
    connection._on_data_available(settled(spec.Basic.Ack(10)))

    assert events == [(1, False), (7, True), "Nack", (9, False), "Ack", "Ack"]
    assert connection._frame_buffer == b""


def test_a_channel_that_ends_late_leaves_the_next_ones_acks_alone(connection: Any) -> None:
    events: list[object] = []
    channel: Any = Channel(connection)
    forget = confirm_directly(channel, lambda tag, _: events.append(("old", tag)))
    confirm_directly(channel, lambda tag, _: events.append(("new", tag)))
    forget()

    connection._on_data_available(settled(spec.Basic.Ack(1)))

    assert events == [("new", 1)]


def test_a_stock_connection_hands_nothing_over_directly() -> None:
    channel: Any = Channel(object())

    deliver_directly(channel, "t", lambda _: None)()
    confirm_directly(channel, lambda *_: None)()


def settled(method: Any, *, channel: int = 2) -> bytes:
    return bytes(frame.Method(channel, method).marshal())


def delivery(number: int, *, tag: str = "t") -> bytes:
    method: Any = spec.Basic.Deliver(tag, number, False, "e", "k")
    parts: tuple[Any, ...] = (frame.Method(2, method), frame.Header(2, 2, BasicProperties(message_id="m")), frame.Body(2, b"{}"))
    return b"".join(part.marshal() for part in parts)
