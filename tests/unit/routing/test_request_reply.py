"""Request and reply: one queue per process, answers to whoever waits, and no answer lost to a slow broker."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from random import Random

import pytest

from eventplat.broker.embedded import EmbeddedTransport
from eventplat.broker.embedded_broker import EmbeddedBroker
from eventplat.broker.topology import COMMANDS, REPLIES, Binding, Names, Queue, Topology
from eventplat.broker.transport import Confirmed, Delivery, Nacked, Outcome, Outgoing
from eventplat.errors import BrokerUnavailable, TimedOut, Unroutable
from eventplat.messages.codec import Properties, to_properties
from eventplat.messages.envelope import DONE, REJECTED, RUNNING, Envelope
from eventplat.messages.ids import derived_id
from eventplat.routing.request_reply import Requester
from eventplat.testing.virtual_clock import VirtualClock

NAMES = Names("t")
QUEUE = Queue("t.shop", bindings=(Binding(NAMES.exchange(COMMANDS), "shop.#"),))
ID = derived_id(0, "request")
FIRST, AGAIN, OTHER = (derived_id(0, name) for name in ("first", "again", "other"))


class House:
    """A requester, and a service whose queue it asks."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        broker = EmbeddedBroker(None, clock=self.clock)
        self.near = EmbeddedTransport(broker, clock=self.clock, name="near")
        self.far = EmbeddedTransport(broker, clock=self.clock, name="far")
        self.requester = Requester(self.near, NAMES, self.clock, Random(1))
        self.asked: list[Delivery] = []

    async def open(self) -> None:
        for transport in (self.near, self.far):
            await transport.open()
        await self.far.declare(Topology(NAMES.exchanges(), (QUEUE,)))
        await self.far.consume(QUEUE, self._receive, prefetch=100)
        await self.requester.start()

    async def close(self) -> None:
        await self.requester.stop()
        await self.near.close()
        await self.far.close()

    def _receive(self, delivery: Delivery) -> None:
        delivery.ack()
        self.asked.append(delivery)

    def question(self, routing_key: str = "shop.-.sell.v1.-", id_: str = ID, by: str | None = None, body: bytes = b"{}") -> Outgoing:
        envelope = Envelope(id=id_, type="shop.sell.v1", body=body, correlation_id=by or id_, reply_to=self.requester.reply_to)
        return Outgoing(NAMES.exchange(COMMANDS), routing_key, to_properties(envelope), body)

    def ask(
        self, timeout_s: float = 5.0, id_: str = ID, by: str | None = None, body: bytes = b"{}", *, persistent: bool = True
    ) -> asyncio.Task[Envelope]:
        question = replace(self.question(id_=id_, by=by, body=body), persistent=persistent)
        return asyncio.create_task(self.requester.ask(question, request_id=id_, timeout_s=timeout_s))

    async def answer(
        self, body: bytes = b"1", *, causation: str | None = ID, to: str | None = None, by: str = ID, type_: str = DONE
    ) -> None:
        answer = Envelope(id=derived_id(0, "answer"), type=type_, body=body, correlation_id=by, causation=causation)
        exchange = NAMES.exchange(REPLIES)
        await self.far.publish([Outgoing(exchange, to or self.requester.reply_to, to_properties(answer), body, persistent=False)])

    async def turn(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


def on_loop(test: Callable[[House], Awaitable[None]]) -> Callable[[], None]:
    async def run() -> None:
        house = House()
        await house.open()
        try:
            await test(house)
        finally:
            await house.close()

    @functools.wraps(test)
    def wrapper() -> None:
        asyncio.run(run())

    del wrapper.__wrapped__  # pytest would take its argument for a fixture
    return wrapper


@on_loop
async def test_the_answer_that_names_the_request_is_returned(house: House) -> None:
    asking = house.ask()
    await house.turn()
    assert [each.properties.reply_to for each in house.asked] == [house.requester.reply_to]

    await house.answer(b'{"a":1}')

    assert (await asking).body == b'{"a":1}'
    assert house.requester.waiting == 0


@on_loop
async def test_an_answer_to_another_request_is_dropped_and_counted(house: House) -> None:
    asking = house.ask()
    await house.turn()

    await house.answer(b"other", causation=derived_id(0, "another"))
    await house.answer(b"nobody's", causation=None)
    await house.answer(b"mine")

    assert (await asking).body == b"mine"
    assert house.requester.late == 2


@on_loop
async def test_everybody_who_waits_for_one_request_gets_its_answer(house: House) -> None:
    asking = [house.ask(), house.ask()]
    await house.turn()

    await house.answer(b"1")

    assert [answer.body for answer in await asyncio.gather(*asking)] == [b"1", b"1"]
    assert house.requester.late == 0


@on_loop
async def test_running_is_said_to_who_asked_again_and_the_first_waits_on(house: House) -> None:
    first, again = house.ask(by=FIRST), house.ask(by=AGAIN)
    await house.turn()

    await house.answer(by=AGAIN, type_=RUNNING)

    assert (await again).type == RUNNING
    assert not first.done()
    await house.answer(by=FIRST)
    assert (await first).type == DONE


@on_loop
async def test_another_body_is_refused_to_those_who_sent_it(house: House) -> None:
    first, others = house.ask(by=FIRST), [house.ask(by=OTHER, body=b"[]"), house.ask(by=AGAIN, body=b"[]")]
    await house.turn()

    await house.answer(by=OTHER, type_=REJECTED)

    assert [answer.type for answer in await asyncio.gather(*others)] == [REJECTED, REJECTED]
    assert not first.done()
    await house.answer(by=FIRST)
    assert (await first).type == DONE


@on_loop
async def test_an_outcome_that_comes_to_the_first_reaches_who_waits_since_it_gave_up(house: House) -> None:
    with pytest.raises(TimedOut):
        await house.ask(by=FIRST, timeout_s=0)
    again, other = house.ask(by=AGAIN), house.ask(by=OTHER, body=b"[]")
    await house.turn()

    await house.answer(by=FIRST)

    assert (await again).type == DONE
    assert not other.done()
    other.cancel()


@on_loop
async def test_a_second_answer_does_no_harm(house: House) -> None:
    asking = house.ask()
    await house.turn()

    await house.answer(b"1")
    await house.answer(b"2")

    assert (await asking).body == b"1"
    await house.turn()
    assert house.requester.late == 1


@on_loop
async def test_a_question_that_reaches_nobody_is_unroutable_at_once(house: House) -> None:
    with pytest.raises(Unroutable):
        await house.requester.ask(house.question("stock.-.sell.v1.-"), request_id=ID, timeout_s=5)
    assert house.requester.waiting == 0


@on_loop
async def test_no_answer_in_time_is_told_when_the_time_is_over_and_not_before(house: House) -> None:
    asking = house.ask(timeout_s=5)
    await house.turn()

    await house.clock.advance(4.9)
    assert not asking.done()
    await house.clock.advance(0.2)

    with pytest.raises(TimedOut):
        await asking
    assert house.requester.waiting == 0
    await house.answer()
    await house.turn()
    assert house.requester.late == 1


@on_loop
async def test_who_does_not_wait_still_knows_that_the_broker_has_the_question(house: House) -> None:
    with pytest.raises(TimedOut):
        await house.ask(timeout_s=0)

    await house.turn()
    assert len(house.asked) == 1


@on_loop
async def test_an_answer_outdoes_a_confirm_that_never_came(house: House) -> None:
    async def lost(batch: list[Outgoing], *, timeout_s: float = 10.0) -> list[Outcome]:
        await house.answer(b"1")
        await house.turn()
        raise BrokerUnavailable("cut")

    house.near.publish = lost  # type: ignore[assignment,method-assign]

    assert (await house.ask()).body == b"1"


@on_loop
async def test_a_question_that_the_broker_refuses_or_does_not_take_is_an_error(house: House) -> None:
    async def full(batch: list[Outgoing], *, timeout_s: float = 10.0) -> list[Outcome]:
        return [Nacked("the queue is full")]

    async def away(batch: list[Outgoing], *, timeout_s: float = 10.0) -> list[Outcome]:
        assert timeout_s >= 10, "a client's short wait must not look like a broker that is away"
        raise BrokerUnavailable("not connected")

    for broken, said in ((full, "the queue is full"), (away, "not connected")):
        house.near.publish = broken  # type: ignore[assignment,method-assign]
        with pytest.raises(BrokerUnavailable, match=said):
            await house.ask(timeout_s=0.5)
    assert house.requester.waiting == 0


@on_loop
async def test_an_answer_that_cannot_be_read_is_dropped(house: House) -> None:
    asking = house.ask()
    await house.turn()
    bad = Properties(message_id="no id", type=DONE, content_type="application/json", headers={"causation": ID})

    await house.far.publish([Outgoing(NAMES.exchange(REPLIES), house.requester.reply_to, bad, b"1", persistent=False)])
    await house.answer(b"2")

    assert (await asking).body == b"2"


@on_loop
async def test_a_process_that_stops_tells_its_waiters_so(house: House) -> None:
    asking = house.ask()
    await house.turn()

    await house.requester.stop()

    with pytest.raises(BrokerUnavailable, match="stopping"):
        await asking


@on_loop
async def test_a_waiter_that_gives_up_leaves_nothing_behind(house: House) -> None:
    asking = house.ask()
    await house.turn()

    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    assert house.requester.waiting == 0


@on_loop
async def test_the_reply_queue_keeps_its_name_over_a_reconnect(house: House) -> None:
    await house.near.close()
    await house.near.open()
    await house.requester.start()
    asking = house.ask()
    await house.turn()

    await house.answer(b"1")

    assert (await asking).body == b"1"


@on_loop
async def test_queries_of_one_turn_leave_together_and_each_has_its_own_ending(house: House) -> None:
    batches: list[int] = []
    publish = house.near.publish

    async def counted(messages: Sequence[Outgoing], *, timeout_s: float = 30.0) -> list[Outcome]:
        batches.append(len(messages))
        return await publish(messages, timeout_s=timeout_s)

    house.near.publish = counted  # type: ignore[assignment,method-assign]
    first = house.ask(by=FIRST, persistent=False)
    nowhere = asyncio.create_task(house.requester.ask(
        replace(house.question("nobody.-.x.v1.-", id_=OTHER), persistent=False), request_id=OTHER, timeout_s=5
    ))  # fmt: skip
    unanswered = house.ask(id_=AGAIN, persistent=False)
    await house.turn()

    await house.answer(by=FIRST)

    assert (await first).body == b"1"
    with pytest.raises(Unroutable):
        await nowhere
    await house.clock.advance(5.2)
    with pytest.raises(TimedOut):
        await unanswered
    assert batches == [3]
    assert house.requester.waiting == 0


@on_loop
async def test_of_queries_whose_batch_is_cut_off_those_fail_that_did_not_arrive(house: House) -> None:
    async def cut(messages: Sequence[Outgoing], *, timeout_s: float = 30.0) -> list[Outcome]:
        await answered.wait()
        raise BrokerUnavailable("gone", outcomes=[None, Confirmed(), None])

    answered = asyncio.Event()
    house.near.publish = cut  # type: ignore[assignment,method-assign]
    quick, taken, lost = (house.ask(id_=id_, persistent=False) for id_ in (FIRST, AGAIN, OTHER))
    await house.turn()
    await house.answer(b"quick", causation=FIRST, by=FIRST)
    assert (await quick).body == b"quick"
    answered.set()
    with pytest.raises(BrokerUnavailable, match="gone"):
        await lost
    await house.answer(b"late", causation=AGAIN, by=AGAIN)
    assert (await taken).body == b"late"


@on_loop
async def test_a_query_that_a_bug_keeps_from_leaving_fails_and_does_not_wait_for_ever(house: House) -> None:
    async def broken(messages: Sequence[Outgoing], *, timeout_s: float = 30.0) -> list[Outcome]:
        raise ValueError("a bug")

    house.near.publish = broken  # type: ignore[assignment,method-assign]

    with pytest.raises(BrokerUnavailable, match="a bug"):
        await asyncio.wait_for(house.ask(persistent=False), 5)
