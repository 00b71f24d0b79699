"""A unit of work before it is written: what is taken back with a savepoint, and what nobody waits for."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any, cast

from eventplat.broker.topology import Names
from eventplat.messages.envelope import DONE, Envelope
from eventplat.messages.ids import derived_id
from eventplat.messages.message import Event
from eventplat.testing.virtual_clock import VirtualClock
from eventplat.transactions.sender import Sender
from eventplat.transactions.unit_of_work import UnitOfWork


class Opened(Event):
    pass


CAUSE = Envelope(id=derived_id(1, "cause"), type="shop.place.v1", body=b"{}", correlation_id="c-1", reply_to="r")


def work() -> UnitOfWork:
    return UnitOfWork(cast("Any", object()), Sender("shop", Names("t"), VirtualClock(), random.Random(1)), None)


def test_what_was_sent_since_a_savepoint_is_forgotten_with_it() -> None:
    unit = work()
    waits, durable = replace(CAUSE, reply_to="t.reply.p"), replace(CAUSE, reply_to="t.orders.replies")
    unit.publish(Opened())
    unit.answer(waits, DONE, b"1")
    mark = unit.mark()
    unit.publish(Opened())
    unit.answer(waits, DONE, b"2")
    unit.answer(durable, DONE, b"3")

    assert unit.mark() == (3, 2)
    unit.back_to(mark)
    assert unit.mark() == mark == (1, 1)


def test_an_answer_that_nobody_waits_for_is_not_written() -> None:
    unit = work()
    unit.answer(replace(CAUSE, reply_to=None), DONE, b"1")

    assert unit.mark() == (0, 0)


def test_a_message_of_this_transaction_is_taken_back_before_it_is_written() -> None:
    unit = work()
    first, second = unit.publish(Opened(), after_s=60), unit.publish(Opened(), after_s=60)

    assert asyncio.run(unit.cancel(first))
    assert [letter.envelope.id for letter in unit._letters] == [second]
    assert unit._letters[0].after_us == 60_000_000
