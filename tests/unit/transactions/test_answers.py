"""Answers: those of one turn in one batch, waited for by nobody, and a broker that is away is no error of who made them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, cast

import pytest

from eventplat.broker.transport import Confirmed, Outcome, Outgoing
from eventplat.errors import BrokerUnavailable
from eventplat.messages.envelope import DONE, Envelope
from eventplat.messages.ids import derived_id
from eventplat.transactions.answers import Answers
from eventplat.transactions.letter import Letter


class Broker:
    """Takes what is published, or is away."""

    def __init__(self) -> None:
        self.taken: list[list[bytes]] = []
        self.is_away = False

    async def publish(self, messages: Sequence[Outgoing]) -> list[Outcome]:
        if self.is_away:
            raise BrokerUnavailable("away")
        assert not any(message.mandatory or message.persistent for message in messages)
        self.taken.append([message.body for message in messages])
        return [Confirmed() for _ in messages]


def letter(body: bytes) -> Letter:
    return Letter("t.replies", "t.reply.p", Envelope(id=derived_id(1, body.hex()), type=DONE, body=body, correlation_id="c"))


async def turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_the_answers_of_one_turn_leave_in_one_batch_and_later_ones_in_another() -> None:
    async def test() -> list[list[bytes]]:
        broker = Broker()
        answers = Answers(cast("Any", broker))
        for body in (b"1", b"2", b"3"):
            answers.send(letter(body))
        assert broker.taken == [], "nobody waits"
        await turns()
        answers.send(letter(b"4"))
        await turns()
        return broker.taken

    assert asyncio.run(test()) == [[b"1", b"2", b"3"], [b"4"]]


def test_a_process_that_stops_lets_its_last_answers_leave() -> None:
    async def test() -> list[list[bytes]]:
        broker = Broker()
        answers = Answers(cast("Any", broker))
        answers.send(letter(b"1"))
        await answers.stop()
        return broker.taken

    assert asyncio.run(test()) == [[b"1"]]


def test_a_broker_that_is_away_loses_its_answers_and_takes_the_next(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> list[list[bytes]]:
        broker = Broker()
        answers = Answers(cast("Any", broker))
        broker.is_away = True
        answers.send(letter(b"1"))
        await turns()
        broker.is_away = False
        answers.send(letter(b"2"))
        await turns()
        return broker.taken

    with caplog.at_level(logging.INFO):
        assert asyncio.run(test()) == [[b"2"]]
    assert "did not leave" in caplog.text
