"""Confirms: which message an ack, a nack or a return speaks of."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable

import pytest

from eventplat.broker.rabbitmq_confirms import CONFIRMED, Batch, Confirms, Slot
from eventplat.broker.transport import Confirmed, Nacked, Outgoing, Returned
from eventplat.errors import BrokerUnavailable
from eventplat.messages.codec import Properties


def on_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    @functools.wraps(test)
    def wrapper() -> None:
        async def run() -> None:
            await test()

        asyncio.run(run())

    return wrapper


def message(key: str = "k", id_: str = "m", *, mandatory: bool = True, body: bytes = b"") -> Outgoing:
    return Outgoing("x", key, Properties(message_id=id_), body, mandatory)


def sent(*messages: Outgoing) -> tuple[Confirms, Batch]:
    confirms, batch = Confirms(), Batch(len(messages))
    for index, each in enumerate(messages):
        confirms.sent(Slot(batch, index, each))
    return confirms, batch


def numbered(count: int) -> list[Outgoing]:
    return [message(id_=str(number)) for number in range(count)]


@on_loop
async def test_an_ack_settles_its_own_tag() -> None:
    confirms, batch = sent(*numbered(3))

    confirms.settled(2, multiple=False, is_ack=True)

    assert batch.outcomes == [None, CONFIRMED, None]
    assert (len(confirms), batch.done.done()) == (2, False)


@on_loop
async def test_an_ack_of_many_settles_every_tag_up_to_it() -> None:
    confirms, batch = sent(*numbered(4))
    confirms.settled(2, multiple=False, is_ack=False)

    confirms.settled(3, multiple=True, is_ack=True)

    assert [type(outcome) for outcome in batch.outcomes] == [Confirmed, Nacked, Confirmed, type(None)]


@on_loop
async def test_a_batch_is_done_with_its_last_outcome() -> None:
    confirms, batch = sent(*numbered(3))

    for tag in (3, 1, 2):
        assert not batch.done.done()
        confirms.settled(tag, multiple=False, is_ack=True)

    assert batch.done.done()
    assert batch.outcomes == [CONFIRMED] * 3


@on_loop
async def test_an_ack_of_what_is_settled_or_was_never_sent_changes_nothing() -> None:
    confirms, batch = sent(*numbered(2))
    confirms.settled(1, multiple=False, is_ack=True)

    confirms.settled(1, multiple=False, is_ack=False)
    confirms.settled(9, multiple=False, is_ack=True)

    assert batch.outcomes == [CONFIRMED, None]


@on_loop
async def test_a_tag_above_the_last_settles_up_to_the_last() -> None:
    confirms, batch = sent(*numbered(2))

    confirms.settled(99, multiple=True, is_ack=True)

    assert batch.outcomes == [CONFIRMED] * 2


@on_loop
async def test_a_returned_message_is_returned_when_its_ack_comes() -> None:
    confirms, batch = sent(message(id_="0"), message("nobody", "1"))

    confirms.returned("x", "nobody", "1", "NO_ROUTE")
    assert batch.outcomes == [None, None]
    confirms.settled(2, multiple=True, is_ack=True)

    assert batch.outcomes == [CONFIRMED, Returned("NO_ROUTE")]


@on_loop
async def test_a_returned_message_that_is_nacked_was_refused() -> None:
    confirms, batch = sent(message("nobody"))
    confirms.returned("x", "nobody", "m", "NO_ROUTE")

    confirms.settled(1, multiple=False, is_ack=False)

    assert isinstance(batch.outcomes[0], Nacked)


@on_loop
async def test_returns_of_messages_that_look_the_same_find_them_in_order() -> None:
    confirms, batch = sent(*[message("nobody")] * 3)
    for tag in (1, 2, 3):
        confirms.returned("x", "nobody", "m", f"return {tag}")

    confirms.settled(3, multiple=True, is_ack=True)

    assert batch.outcomes == [Returned("return 1"), Returned("return 2"), Returned("return 3")]


@on_loop
async def test_a_return_speaks_only_of_mandatory_messages() -> None:
    confirms, batch = sent(message("nobody", mandatory=False), message("nobody"))
    confirms.returned("x", "nobody", "m", "NO_ROUTE")

    confirms.settled(2, multiple=True, is_ack=True)

    assert batch.outcomes == [CONFIRMED, Returned("NO_ROUTE")]


@on_loop
async def test_a_return_of_what_was_never_sent_is_nobodys() -> None:
    confirms, batch = sent(message())
    confirms.returned("y", "k", "m", "NO_ROUTE")

    confirms.settled(1, multiple=False, is_ack=True)

    assert batch.outcomes == [CONFIRMED]


@on_loop
async def test_bytes_are_those_of_what_is_outstanding() -> None:
    confirms, _ = sent(message(body=b"12"), message(body=b"345"), message())
    assert confirms.bytes == 5

    confirms.settled(1, multiple=False, is_ack=True)
    assert confirms.bytes == 3
    confirms.settled(3, multiple=True, is_ack=False)

    assert (confirms.bytes, len(confirms)) == (0, 0)


@on_loop
async def test_outstanding_messages_stand_in_the_order_they_were_sent() -> None:
    confirms, batch = sent(*numbered(5))
    confirms.settled(2, multiple=False, is_ack=True)
    other = Batch(1)
    confirms.sent(Slot(other, 0, message()))
    batch.is_over = True

    assert [slot.index for slot in confirms.outstanding()] == [0, 2, 3, 4, 0]
    assert [slot.batch for slot in confirms.live()] == [other]


@on_loop
async def test_a_batch_that_failed_says_why_and_takes_no_outcome() -> None:
    batch = Batch(2)
    batch.settle(0, CONFIRMED)

    batch.fail("lost")
    batch.settle(1, CONFIRMED)

    assert batch.outcomes == [CONFIRMED, None]
    with pytest.raises(BrokerUnavailable, match="lost"):
        await batch.done


@on_loop
async def test_the_first_outcome_of_a_message_stays() -> None:
    batch = Batch(1)

    batch.settle(0, Nacked("first"))
    batch.settle(0, CONFIRMED)

    assert batch.outcomes == [Nacked("first")]
    assert batch.left == 0


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_answers_gives_each_message_its_own(seed: int) -> None:
    chance = random.Random(seed)

    async def run() -> None:
        keys = [chance.choice(["k", "nobody"]) for _ in range(60)]
        confirms, batch = sent(*[message(key, chance.choice("ab")) for key in keys])
        slots = list(confirms.outstanding())
        expected: list[type] = [Confirmed] * 60
        for index, slot in enumerate(slots):
            if keys[index] == "nobody":
                confirms.returned("x", "nobody", slot.message.properties.message_id, "NO_ROUTE")
                expected[index] = Returned
        tags = chance.sample(range(1, 61), 60)
        open_ = set(tags)
        for tag in tags:
            multiple, is_ack = chance.random() < 0.1, chance.random() < 0.8
            told = {each for each in open_ if each <= tag} if multiple else {tag} & open_
            for each in told if not is_ack else ():
                expected[each - 1] = Nacked
            open_ -= told
            confirms.settled(tag, multiple=multiple, is_ack=is_ack)

        assert [type(outcome) for outcome in batch.outcomes] == expected
        assert len(confirms) == 0

    asyncio.run(run())
