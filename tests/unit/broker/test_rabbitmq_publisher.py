"""The publisher against a broker of its own: windows, culprits, late batches and lost channels."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from pika.exceptions import ChannelClosedByBroker, ChannelWrongStateError
from pika.frame import Method
from pika.spec import Basic

from eventplat.broker import rabbitmq_publisher
from eventplat.broker.rabbitmq_connection import Backoff, ChannelEnded, Link
from eventplat.broker.rabbitmq_publisher import Publisher
from eventplat.broker.transport import Nacked, Outgoing
from eventplat.errors import BrokerUnavailable
from eventplat.messages.codec import Properties
from eventplat.testing.virtual_clock import VirtualClock


class Channel:
    """Takes messages until the broker closes it."""

    def __init__(self, broker: Broker) -> None:
        self.broker, self.raw = broker, self
        self.ended: asyncio.Future[ChannelEnded] = asyncio.get_running_loop().create_future()
        self.sent: list[Outgoing] = []
        self.connection = None   # a stock one: each message goes through `basic_publish`
        self.on_confirm: Callable[[Any], None] = lambda _: None
        self.is_answering = False

    @property
    def is_open(self) -> bool:
        return not self.ended.done()

    def add_on_return_callback(self, _: Callable[..., None]) -> None:
        """The broker of these tests returns nothing."""

    def confirm_delivery(self, *, ack_nack_callback: Callable[[Any], None], callback: object = None) -> None:
        self.on_confirm = ack_nack_callback

    async def ask(self, call: Callable[..., object], **arguments: Any) -> None:
        call(**arguments)

    def basic_publish(self, exchange: str, routing_key: str, body: bytes, properties: Any, mandatory: bool) -> None:
        if not self.is_open:
            raise ChannelWrongStateError
        if body == b"unwritable":
            raise AttributeError(body)
        self.sent.append(Outgoing(exchange, routing_key, Properties(message_id=properties.message_id), body, mandatory))
        if not self.is_answering:
            self.is_answering = True
            asyncio.get_running_loop().call_soon(self.answer)

    def answer(self) -> None:
        """One after the other, up to the first that the broker closes the channel for."""
        self.is_answering = False
        if self.broker.is_silent or not self.is_open:
            return
        for tag, message in enumerate(self.sent, 1):
            if message.exchange in self.broker.refuses:
                self.end(ChannelClosedByBroker(self.broker.refuses[message.exchange], f"no {message.exchange}"))
                return
            if tag > self.broker.answered[self]:
                self.broker.answered[self] = tag
                self.broker.kept.append(message.body)
                if not self.broker.is_lazy:
                    self.on_confirm(Method(1, Basic.Ack(tag)))
        if self.broker.is_lazy and self.sent:
            self.on_confirm(Method(1, Basic.Ack(len(self.sent), multiple=True)))

    def end(self, reason: BaseException | str) -> None:
        if self.is_open:
            self.ended.set_result(ChannelEnded(reason))

    def close(self) -> None:
        self.end("closed here")


class Broker:
    """Gives channels, keeps what is good, and says so."""

    def __init__(self) -> None:
        self.refuses: dict[str, int] = {}
        self.kept: list[bytes] = []
        self.answered: Counter[Channel] = Counter()
        self.channels: list[Channel] = []
        self.is_silent = self.is_lazy = False
        self.state = "connected"
        self.on_unblocked: Callable[[], None] = lambda: None

    async def channel(self) -> Channel:
        await asyncio.sleep(0)
        self.channels.append(Channel(self))
        return self.channels[-1]


class Bench:
    def __init__(self, window: int = 1_000) -> None:
        self.broker = Broker()
        self.publisher = Publisher(cast("Link", self.broker), window=window, backoff=Backoff(VirtualClock(), lambda: 0.0))

    async def publish(self, *messages: Outgoing, timeout_s: float = 5.0) -> list[str]:
        return [type(each).__name__ for each in await self.publisher.publish(messages, timeout_s=timeout_s)]


def on_bench(test: Callable[[Bench], Awaitable[None]]) -> Callable[[], None]:
    async def run() -> None:
        bench = Bench()
        bench.publisher.start()
        try:
            await test(bench)
        finally:
            await bench.publisher.close()

    @functools.wraps(test)
    def wrapper() -> None:
        asyncio.run(run())

    del wrapper.__wrapped__  # pytest would take its argument for a fixture
    return wrapper


def out(body: bytes = b"", exchange: str = "x") -> Outgoing:
    return Outgoing(exchange, "k", Properties(message_id=body.decode()), body)


@on_bench
async def test_a_batch_is_sent_on_one_channel_in_order(bench: Bench) -> None:
    assert await bench.publish(out(b"1"), out(b"2"), out(b"3")) == ["Confirmed"] * 3

    assert bench.broker.kept == [b"1", b"2", b"3"]
    assert len(bench.broker.channels) == 1


@on_bench
async def test_a_culprit_is_found_by_halving(bench: Bench) -> None:
    bench.broker.refuses = {"bad": 403}
    batch = [out(b"%d" % number, "bad" if number == 700 else "x") for number in range(1_000)]

    outcomes = await bench.publish(*batch)

    assert [index for index, outcome in enumerate(outcomes) if outcome == "Nacked"] == [700]
    assert list(dict.fromkeys(bench.broker.kept)) == [b"%d" % number for number in range(1_000) if number != 700]
    assert max(Counter(bench.broker.kept).values()) <= 2 + 10
    assert len(bench.broker.channels) <= 12  # one, ten halvings, and the next


@on_bench
async def test_after_a_culprit_new_messages_wait_for_the_suspects(bench: Bench) -> None:
    bench.broker.refuses = {"bad": 403}
    suspects = asyncio.create_task(bench.publish(out(b"1"), out(b"bad", "bad"), out(b"2")))
    while not bench.publisher._suspects:
        await asyncio.sleep(0)

    outcomes = await bench.publish(out(b"3"))

    assert (await suspects, outcomes) == (["Confirmed", "Nacked", "Confirmed"], ["Confirmed"])
    assert list(dict.fromkeys(bench.broker.kept)) == [b"1", b"2", b"3"]


@on_bench
async def test_all_for_a_missing_exchange_are_refused_by_one_closed_channel_each_group(bench: Bench) -> None:
    bench.broker.refuses = {"missing": 404}

    outcomes = await bench.publish(*[out(b"%d" % number, "missing") for number in range(256)])

    assert outcomes == ["Nacked"] * 256
    assert len(bench.broker.channels) <= 10  # 256 halved eight times, not 256 channels


@on_bench
async def test_many_culprits_of_many_kinds_are_all_found(bench: Bench) -> None:
    bench.broker.refuses = {"missing": 404, "forbidden": 403, "false": 406}
    exchanges = ["x", "missing", "x", "forbidden", "x", "x", "false", "forbidden", "missing", "x"]

    outcomes = await bench.publish(*[out(b"%d" % index, exchange) for index, exchange in enumerate(exchanges)])

    assert outcomes == ["Confirmed" if exchange == "x" else "Nacked" for exchange in exchanges]


@on_bench
async def test_the_refusal_says_what_the_broker_said(bench: Bench) -> None:
    bench.broker.refuses = {"bad": 403}

    assert await bench.publisher.publish([out(b"1", "bad")], timeout_s=1) == [Nacked("403 no bad")]


@on_bench
async def test_one_that_cannot_be_written_is_refused_and_its_neighbours_go(bench: Bench) -> None:
    assert await bench.publish(out(b"1"), out(b"unwritable"), out(b"2")) == ["Confirmed", "Nacked", "Confirmed"]

    assert bench.broker.kept == [b"1", b"2"]


@on_bench
async def test_a_refused_header_never_reaches_the_channel(bench: Bench) -> None:
    bad = Outgoing("x", "k", Properties(headers={"a": 1.5}), b"bad")

    assert await bench.publish(bad, out(b"1"), bad) == ["Nacked", "Confirmed", "Nacked"]

    assert bench.broker.kept == [b"1"]


@on_bench
async def test_a_lost_channel_fails_what_was_on_it_at_once(bench: Bench) -> None:
    bench.broker.is_silent = True
    publishing = asyncio.create_task(bench.publish(out(b"1")))
    while not bench.broker.channels or not bench.broker.channels[0].sent:
        await asyncio.sleep(0)

    bench.broker.channels[0].end("connection reset")

    with pytest.raises(BrokerUnavailable, match="connection reset"):
        await publishing
    bench.broker.is_silent = False
    assert await bench.publish(out(b"2")) == ["Confirmed"]
    assert len(bench.broker.channels) == 2


@on_bench
async def test_a_late_batch_retires_its_channel_and_the_next_has_another(bench: Bench) -> None:
    await bench.publish(out(b"0"))
    bench.broker.is_silent = True

    with pytest.raises(BrokerUnavailable, match="1 of 1 messages were not settled"):
        await bench.publish(out(b"late"), timeout_s=0)
    bench.broker.is_silent = False

    assert await bench.publish(out(b"1")) == ["Confirmed"]
    assert [channel.is_open for channel in bench.broker.channels] == [False, True]


@on_bench
async def test_under_an_alarm_nothing_is_sent_until_it_ends(bench: Bench) -> None:
    await bench.publish(out(b"0"))
    bench.broker.state = "blocked"
    waiting = asyncio.create_task(bench.publish(out(b"1")))
    for _ in range(5):
        await asyncio.sleep(0)
    assert bench.broker.kept == [b"0"]

    bench.broker.state = "connected"
    bench.broker.on_unblocked()

    assert await waiting == ["Confirmed"]


@on_bench
async def test_what_a_deadline_ended_under_an_alarm_is_never_sent(bench: Bench) -> None:
    await bench.publish(out(b"0"))
    bench.broker.state = "blocked"
    with pytest.raises(BrokerUnavailable, match="blocked"):
        await bench.publish(out(b"never"), timeout_s=0)

    bench.broker.state = "connected"
    bench.broker.on_unblocked()
    await bench.publish(out(b"1"))

    assert bench.broker.kept == [b"0", b"1"]


@on_bench
async def test_one_ack_for_many_confirms_them(bench: Bench) -> None:
    bench.broker.is_lazy = True

    assert await bench.publish(*[out(b"%d" % number) for number in range(50)]) == ["Confirmed"] * 50


@on_bench
async def test_a_close_fails_what_waits_and_what_is_under_suspicion(bench: Bench) -> None:
    bench.broker.refuses = {"bad": 403}
    publishing = asyncio.create_task(bench.publish(out(b"1"), out(b"bad", "bad"), out(b"2"), out(b"3")))
    while not bench.publisher._suspects:
        await asyncio.sleep(0)

    await bench.publisher.close()

    with pytest.raises(BrokerUnavailable, match="was closed"):
        await publishing
    assert not bench.publisher._suspects


@pytest.mark.parametrize("window", [1, 2, 7])
def test_no_more_than_the_window_is_outstanding(window: int) -> None:
    async def run() -> int:
        bench = Bench(window)
        bench.broker.is_silent = True
        bench.publisher.start()
        publishing = asyncio.create_task(bench.publish(*[out(b"%d" % number) for number in range(20)]))
        while not bench.broker.channels or not bench.broker.channels[0].sent:
            await asyncio.sleep(0)
        outstanding = len(bench.broker.channels[0].sent)
        bench.broker.is_silent = False
        bench.broker.channels[0].answer()
        assert await publishing == ["Confirmed"] * 20
        await bench.publisher.close()
        return outstanding

    assert asyncio.run(run()) == window


def test_no_more_bytes_than_the_window_holds_are_outstanding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitmq_publisher, "WINDOW_BYTES", 100)

    async def run() -> list[int]:
        bench = Bench()
        bench.broker.is_silent = True
        bench.publisher.start()
        batch = [Outgoing("x", "k", Properties(), bytes(60)) for _ in range(6)]
        publishing = asyncio.create_task(bench.publish(*batch))
        while not bench.broker.channels or not bench.broker.channels[0].sent:
            await asyncio.sleep(0)
        first = len(bench.broker.channels[0].sent)
        bench.broker.is_silent = False
        bench.broker.channels[0].answer()
        assert await publishing == ["Confirmed"] * 6
        await bench.publisher.close()
        return [first, len(bench.broker.kept)]

    assert asyncio.run(run()) == [2, 6]


def test_a_publisher_that_was_not_started_says_so() -> None:
    async def run() -> None:
        await Bench().publish(out())

    with pytest.raises(BrokerUnavailable, match="not open"):
        asyncio.run(run())
