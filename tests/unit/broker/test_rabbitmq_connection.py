"""The connection's pure parts: backoff, reasons, and how a URL becomes parameters."""

from __future__ import annotations

import asyncio

import pytest
from pika.exceptions import ChannelClosedByBroker, ConnectionClosedByBroker

from eventplat.broker.rabbitmq_connection import (
    FIRST_WAIT_S,
    LONGEST_WAIT_S,
    STOOD_S,
    Backoff,
    ChannelEnded,
    _parameters,
    reason_of,
    resolve,
)
from eventplat.errors import SettingsError
from eventplat.testing.virtual_clock import VirtualClock


class Clock(VirtualClock):
    """Sleeps at once and remembers for how long."""

    def __init__(self) -> None:
        super().__init__()
        self.passed_s, self.slept = 0.0, list[float]()

    def monotonic(self) -> float:
        return self.passed_s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def waits(count: int, chance: float = 1.0) -> list[float]:
    clock = Clock()
    backoff = Backoff(clock, lambda: chance)

    async def run() -> None:
        for _ in range(count):
            await backoff.wait()

    asyncio.run(run())
    return clock.slept


def test_each_failure_doubles_the_wait_up_to_the_longest() -> None:
    assert waits(9) == [FIRST_WAIT_S * 2**number for number in range(6)] + [LONGEST_WAIT_S] * 3


def test_ten_thousand_failures_wait_no_longer() -> None:
    assert waits(10_000)[-1] == LONGEST_WAIT_S


def test_chance_takes_its_part_of_the_whole_wait() -> None:
    assert waits(3, chance=0.0) == [0.0] * 3
    assert waits(2, chance=0.5) == [FIRST_WAIT_S / 2, FIRST_WAIT_S]


@pytest.mark.parametrize(("stood_s", "then"), [(STOOD_S, FIRST_WAIT_S), (STOOD_S - 0.1, FIRST_WAIT_S * 8)])
def test_only_what_stood_for_a_while_starts_the_count_anew(stood_s: float, then: float) -> None:
    clock = Clock()
    backoff = Backoff(clock, lambda: 1.0)

    async def run() -> None:
        for _ in range(3):
            await backoff.wait()
        backoff.stands()
        clock.passed_s += stood_s
        await backoff.wait()

    asyncio.run(run())
    assert clock.slept[-1] == pytest.approx(then)


def test_what_stood_once_does_not_count_for_the_next_failure() -> None:
    clock = Clock()
    backoff = Backoff(clock, lambda: 1.0)

    async def run() -> None:
        backoff.stands()
        clock.passed_s += STOOD_S
        for _ in range(2):
            await backoff.wait()

    asyncio.run(run())
    assert clock.slept == [FIRST_WAIT_S, FIRST_WAIT_S * 2]


@pytest.mark.parametrize(
    ("reason", "code", "text"),
    [
        (ChannelClosedByBroker(404, "NOT_FOUND - no queue"), 404, "404 NOT_FOUND - no queue"),
        (ConnectionClosedByBroker(320, "CONNECTION_FORCED"), 0, "(320, 'CONNECTION_FORCED')"),
        (ConnectionResetError(), 0, "ConnectionResetError()"),
        ("no answer", 0, "no answer"),
    ],
)
def test_the_end_of_a_channel_has_a_code_only_from_the_broker(reason: BaseException | str, code: int, text: str) -> None:
    ended = ChannelEnded(reason)

    assert ended.code == code
    assert text in str(ended)


def test_an_error_that_says_nothing_is_shown_as_what_it_is() -> None:
    assert reason_of(ValueError()) == "ValueError()"
    assert reason_of(ValueError("why")) == "why"


def test_a_future_keeps_its_first_result() -> None:
    async def run() -> int:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        resolve(future, 1)
        resolve(future, 2)
        return await future

    assert asyncio.run(run()) == 1


def test_a_url_becomes_parameters_of_this_house() -> None:
    parameters = _parameters("amqp://user:secret@broker:5673/vhost", name="orders consume", heartbeat_s=7)

    assert (parameters.host, parameters.port, parameters.virtual_host, parameters.heartbeat) == ("broker", 5673, "vhost", 7)
    assert parameters.connection_attempts == 1  # trying again is the link's own
    assert not parameters.blocked_connection_timeout
    assert parameters.client_properties == {"connection_name": "orders consume", "product": "eventplat"}


def test_a_url_that_is_none_is_named_without_its_password() -> None:
    with pytest.raises(SettingsError) as refused:
        _parameters("amqp://user:secret@host/?heartbeat=often", name="n", heartbeat_s=7)

    assert "secret" not in str(refused.value)
