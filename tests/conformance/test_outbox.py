"""The outbox with its process, dispatch and relay: on both databases, and a broker that answers as told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Select, delete, func, select, update

from eventplat.broker.topology import Names
from eventplat.broker.transport import Confirmed, Outcome, Outgoing, Returned
from eventplat.clock import Clock, SystemClock
from eventplat.errors import BrokerUnavailable
from eventplat.messages.envelope import DONE, RUNNING
from eventplat.messages.ids import derived_id
from eventplat.messages.message import Command, Event, Key
from eventplat.service.context import Context
from eventplat.service.outgoing import Outgoings
from eventplat.service.service import Service
from eventplat.settings import load
from eventplat.storage.database import Database
from eventplat.storage.migrate import upgrade
from eventplat.storage.tables import now_us
from eventplat.transactions import dispatch, relay
from eventplat.transactions import outbox as outboxes
from eventplat.transactions.answers import Answers
from eventplat.transactions.dispatch import Dispatcher
from eventplat.transactions.outbox_tables import event_log, outbox, sequence
from eventplat.transactions.owner import Owner, process
from eventplat.transactions.relay import Relay
from eventplat.transactions.sender import Sender
from eventplat.transactions.stored import properties_text
from eventplat.transactions.unit_of_work import Transactions
from tests.conformance.stage import until


class Placed(Event, name="orders.placed"):
    order_id: Key[str]
    n: int = 0


class Pack(Command[object], name="stock.pack"):
    order_id: Key[str]


class Broker:
    """Takes what is published; `away`, or without a queue, as a test wants it."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []
        self.is_away = self.is_unbound = False
        self.settles_at_most: int | None = None      # of each batch, before it is over time
        self.before_confirm: Callable[[], Awaitable[object]] | None = None

    async def publish(self, batch: Sequence[Outgoing], *, timeout_s: float = 10.0) -> list[Outcome]:
        if self.is_away:
            raise BrokerUnavailable("away")
        self.sent += batch
        if self.before_confirm is not None:
            await self.before_confirm()
        returned = [self.is_unbound and outgoing.mandatory for outgoing in batch]  # else it is dropped, and confirmed
        outcomes: list[Outcome] = [Returned("312 NO_ROUTE") if is_returned else Confirmed() for is_returned in returned]
        if self.settles_at_most is not None and len(batch) > self.settles_at_most:
            known = [*outcomes[: self.settles_at_most], *[None] * (len(batch) - self.settles_at_most)]
            raise BrokerUnavailable("over time", outcomes=known)
        return outcomes

    @property
    def ids(self) -> list[str | None]:
        return [outgoing.properties.message_id for outgoing in self.sent]


class Instance:
    """The sending half of one process."""

    def __init__(self, url: str, term_s: float, clock: Clock | None = None) -> None:
        self.clock, self.broker = clock or SystemClock(), Broker()
        self.database = Database(url, service="orders", clock=self.clock)
        sender = Sender("orders", Names(), self.clock, random.SystemRandom())
        self.owner = Owner(self.database, "orders", new_id=sender.new_id, term_s=term_s, clock=self.clock)
        self.dispatcher = Dispatcher(self.database, self.broker, sender.names, self.owner, self.clock)  # type: ignore[arg-type]
        self.relay = Relay(self.database, self.owner, self.dispatcher, self.clock)
        self.transactions = Transactions(
            self.database, sender, self.owner, self.dispatcher, self.relay, Answers(self.broker),  # type: ignore[arg-type]
        )  # fmt: skip

    async def rows(self, statement: Select[tuple[object, ...]] | Select[tuple[str]]) -> list[tuple[object, ...]]:
        async with self.database.transaction() as connection:
            return [tuple(row) for row in await connection.execute(statement)]

    async def all_left(self) -> None:
        async def is_empty() -> bool:
            return not await self.rows(select(outbox.c.id))

        await until(is_empty, "an empty outbox")

    async def die(self) -> None:
        """Renew no more, and let the term pass at once."""
        await self.owner._loop.stop()
        async with self.database.transaction() as connection:
            await connection.execute(update(process).where(process.c.id == self.owner.id).values(alive_until_us=now_us() - 1))

    async def publish(self, *events: Event, after_s: float = 0) -> list[str]:
        async with self.transactions.begin() as work:
            return [work.publish(event, after_s=after_s) for event in events]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'orders.db'}"
    from tests.servers import fresh_database  # noqa: PLC0415 - starts a server, only when a test needs it

    return fresh_database()


@asynccontextmanager
async def instance(url: str, *, term_s: float = 6.0, relays: bool = True, clock: Clock | None = None) -> AsyncIterator[Instance]:
    one = Instance(url, term_s, clock)
    await upgrade(one.database)
    await one.owner.start()
    await one.dispatcher.start()
    if relays:
        await one.relay.start()
    try:
        yield one
    finally:
        await one.relay.stop() if relays else None
        await one.dispatcher.stop(within_s=0)
        await one.owner.stop()
        await one.database.close()


def test_a_row_belongs_to_its_process_until_the_broker_has_confirmed_it(url: str) -> None:
    async def test() -> None:
        async with instance(url) as one:
            seen: list[tuple[object, ...]] = []

            async def look() -> None:
                seen.extend(await one.rows(select(outbox.c.id, outbox.c.owner)))

            one.broker.before_confirm = look
            (id_,) = await one.publish(Placed(order_id="1"))
            await one.all_left()
            assert seen == [(id_, one.owner.id)]
            assert one.broker.ids == [id_]
            assert await one.rows(select(event_log.c.id, event_log.c.unrouted)) == [(id_, False)]

    asyncio.run(test())


def test_what_was_rolled_back_is_neither_stored_nor_sent(url: str) -> None:
    async def test() -> None:
        async with instance(url) as one:
            with pytest.raises(ZeroDivisionError):
                async with one.transactions.begin() as work:
                    work.publish(Placed(order_id="1"))
                    raise ZeroDivisionError
            (id_,) = await one.publish(Placed(order_id="2"))
            await one.all_left()
            assert one.broker.ids == [id_]
            assert await one.rows(select(event_log.c.id)) == [(id_,)]

    asyncio.run(test())


def test_rows_wait_for_a_broker_that_is_away_and_leave_in_commit_order(url: str) -> None:
    async def test() -> None:
        async with instance(url) as one:
            one.broker.is_away = True
            ids = [(await one.publish(Placed(order_id=str(n))))[0] for n in range(5)]
            assert len(await one.rows(select(outbox.c.id))) == 5
            one.broker.is_away = False
            await one.all_left()
            assert one.broker.ids == ids

    asyncio.run(test())


def test_rows_of_a_dead_process_are_adopted_and_sent_with_the_same_bytes(url: str) -> None:
    async def test() -> None:
        async with instance(url, relays=False) as dead, instance(url) as other:
            dead.broker.is_away = True
            ids = await dead.publish(Placed(order_id="1", n=7), Placed(order_id="1", n=8))
            await dead.die()
            await other.all_left()
            sent = sorted(other.broker.sent, key=lambda outgoing: outgoing.properties.headers["seq"])
            assert [outgoing.properties.message_id for outgoing in sent] == ids
            assert [outgoing.body for outgoing in sent] == [b'{"order_id":"1","n":7}', b'{"order_id":"1","n":8}']
            assert sent[1].properties.headers["prev"] == sent[0].properties.headers["seq"]

    asyncio.run(test())


def test_rows_of_a_living_process_are_never_adopted(url: str) -> None:
    async def test() -> None:
        async with instance(url, relays=False) as slow, instance(url) as other:
            slow.broker.is_away = True
            (id_,) = await slow.publish(Placed(order_id="1"))
            for _ in range(3):
                await other.relay.run_once()
            assert await other.rows(select(outbox.c.id, outbox.c.owner)) == [(id_, slow.owner.id)]
            assert other.broker.ids == []
            slow.broker.is_away = False
            await slow.all_left()
            assert slow.broker.ids == [id_]

    asyncio.run(test())


class Behind(SystemClock):
    """A machine whose clock is an hour behind."""

    def time_us(self) -> int:
        return super().time_us() - 3_600_000_000


def test_a_process_lives_by_the_clock_of_the_database_whatever_its_own_says() -> None:
    from tests.servers import fresh_database  # noqa: PLC0415 - SQLite has no clock but the process's own

    async def test(url: str) -> None:
        async with instance(url, relays=False, clock=Behind()) as slow, instance(url) as other:
            slow.broker.is_away = True
            (id_,) = await slow.publish(Placed(order_id="1"))
            await slow.owner._renew()
            await other.relay.run_once()
            assert await other.rows(select(outbox.c.id, outbox.c.owner)) == [(id_, slow.owner.id)]

    asyncio.run(test(fresh_database()))


class Watched(SystemClock):
    """Knows how long it was slept on."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await super().sleep(seconds)


def test_a_process_that_could_not_renew_its_term_publishes_nothing(url: str) -> None:
    clock = Watched()

    async def test() -> None:
        async with instance(url, relays=False, clock=clock) as one:
            await one.owner._loop.stop()
            one.owner._renewed -= 5.0  # of a term of 6 s
            (id_,) = await one.publish(Placed(order_id="1"))
            await until(lambda: 0.2 in clock.slept or one.broker.sent, "the dispatcher waits for a fresh term")
            assert one.broker.ids == []
            await one.owner._renew()
            await one.all_left()
            assert one.broker.ids == [id_]

    asyncio.run(test())


def test_a_process_whose_row_was_removed_comes_back_under_a_new_id_and_its_rows_still_leave(url: str) -> None:
    async def test() -> None:
        async with instance(url) as one:
            one.broker.is_away = True
            (id_,) = await one.publish(Placed(order_id="1"))
            before = one.owner.id
            async with one.database.transaction() as connection:
                await connection.execute(delete(process))
            await one.owner._renew()
            assert one.owner.id != before
            one.broker.is_away = False
            await one.all_left()
            assert id_ in one.broker.ids

    asyncio.run(test())


def test_an_event_for_nobody_stays_in_the_log_as_unrouted(url: str) -> None:
    async def test() -> None:
        async with instance(url) as one:
            one.broker.is_unbound = True
            (id_,) = await one.publish(Placed(order_id="1"))
            await one.all_left()
            assert await one.rows(select(event_log.c.id, event_log.c.unrouted)) == [(id_, True)]

    asyncio.run(test())


def test_a_command_for_nobody_is_kept_and_sent_again_later(url: str) -> None:
    async def test() -> None:
        async with instance(url) as one:
            one.broker.is_unbound = True
            async with one.transactions.begin() as work:
                id_ = work.send(Pack(order_id="1"))

            async def is_given_back() -> bool:
                return await one.rows(select(outbox.c.id, outbox.c.owner, outbox.c.attempts)) == [(id_, None, 1)]

            await until(is_given_back)
            one.broker.is_unbound = False
            async with one.database.transaction() as connection:
                await connection.execute(update(outbox).values(due_us=now_us()))
            one.relay.wake()
            await one.all_left()
            assert one.broker.ids == [id_, id_]

    asyncio.run(test())


def test_a_delayed_event_leaves_when_due_and_not_before(url: str) -> None:
    async def test() -> None:
        async with instance(url) as one:
            started = asyncio.get_running_loop().time()
            (late,) = await one.publish(Placed(order_id="1"), after_s=0.3)
            (soon,) = await one.publish(Placed(order_id="1"))
            await until(lambda: one.broker.ids == [soon])
            await one.all_left()
            assert one.broker.ids == [soon, late]
            assert asyncio.get_running_loop().time() - started >= 0.3
            assert "seq" not in one.broker.sent[1].properties.headers

    asyncio.run(test())


def test_a_delayed_message_can_be_taken_back_until_it_has_left(url: str) -> None:
    async def test() -> None:
        async with instance(url) as one:
            (waits,) = await one.publish(Placed(order_id="1"), after_s=3_600)
            (left,) = await one.publish(Placed(order_id="1"))
            await until(lambda: one.broker.ids == [left])
            async with one.transactions.begin() as work:
                same = work.publish(Placed(order_id="2"), after_s=3_600)
                assert [await work.cancel(id_) for id_ in (waits, same, left, waits)] == [True, True, False, False]
            await one.all_left()
            assert one.broker.ids == [left]

    asyncio.run(test())


def test_what_is_taken_back_while_relays_adopt_it_is_never_sent_and_all_else_is_sent_once(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "BATCH", 2)  # so that they meet

    async def test() -> None:
        async with instance(url, relays=False) as one, instance(url, relays=False) as other:
            ids = await one.publish(*(Placed(order_id=str(n)) for n in range(60)), after_s=0.001)
            is_over = False

            async def adopt(by: Relay) -> None:
                while not is_over:
                    await by.run_once()
                    await asyncio.sleep(0)  # a late heartbeat keeps it from publishing, and comes only in another turn

            async def take_back(id_: str) -> bool:
                async with one.transactions.begin() as work:
                    return await work.cancel(id_)

            relays = [asyncio.create_task(adopt(each.relay)) for each in (one, other)]
            await until(lambda: one.broker.ids or other.broker.ids, "the relays have begun")
            taken = [id_ for id_ in ids[::-1] if await take_back(id_)]  # the relays begin with the first
            await one.all_left()
            is_over = True
            await asyncio.gather(*relays)
            assert 0 < len(taken) < len(ids)
            assert sorted(str(id_) for id_ in [*one.broker.ids, *other.broker.ids]) == sorted(set(ids) - set(taken))
            assert sorted(str(row[0]) for row in await one.rows(select(event_log.c.id))) == sorted(set(ids) - set(taken))

    asyncio.run(test())


def test_the_order_of_a_key_has_no_fork_and_no_gap_over_twenty_concurrent_transactions(url: str) -> None:
    async def test() -> None:
        async with instance(url) as one:
            turns = [one.publish(Placed(order_id="a", n=n), Placed(order_id="b"), Placed(order_id="a", n=n)) for n in range(20)]
            await asyncio.gather(*turns)
            for key, count in (("a", 40), ("b", 20)):
                rows = await one.rows(select(event_log.c.seq, event_log.c.prev).where(event_log.c.key == key))
                following = {prev: seq for seq, prev in rows}
                assert len(rows) == len(following) == count     # nobody follows the same one twice
                place, chain = following.pop(None), 1
                while place in following:
                    place, chain = following.pop(place), chain + 1
                assert chain == count                           # and from the first one reaches the last

    asyncio.run(test())


def test_what_a_row_keeps_is_what_was_sent_with_its_place_in_the_order(url: str) -> None:
    async def test() -> None:
        async with instance(url) as one:
            one.broker.is_away = True
            await one.publish(Placed(order_id="a"))
            async with one.transactions.begin() as work:
                ids = [work.publish(Placed(order_id=key, n=n)) for n, key in enumerate(("a", "z", "größe", "a", "Z", "a"))]
                ids.append(work.send(Pack(order_id="a")))
                work.publish(Placed(order_id="a"), after_s=3_600)
            kept = {id_: text for id_, text in await one.rows(select(outbox.c.id, outbox.c.properties))}  # noqa: C416
            logged = {id_: text for id_, text in await one.rows(select(event_log.c.id, event_log.c.properties))}  # noqa: C416
            numbers = {id_: (seq, prev) for id_, seq, prev in await one.rows(select(event_log.c.id, event_log.c.seq, event_log.c.prev))}
            one.broker.is_away = False
            await until(lambda: len(one.broker.sent) == 1 + len(ids))
            sent = {outgoing.properties.message_id: outgoing.properties for outgoing in one.broker.sent}
            assert {id_: kept[id_] for id_ in sent} == {id_: properties_text(properties) for id_, properties in sent.items()}
            assert logged == {id_: kept[id_] for id_ in logged}
            heads: dict[object, tuple[Any, Any]] = {
                id_: (properties.headers.get("seq"), properties.headers.get("prev")) for id_, properties in sent.items()
            }
            assert {id_: numbers[id_] for id_ in ids[:-1]} == {id_: heads[id_] for id_ in ids[:-1]}
            first, second, third = (heads[ids[n]] for n in (0, 3, 5))
            assert (second, third) == ((first[0] + 1, first[0]), (first[0] + 2, first[0] + 1))
            assert (heads[ids[1]][1], heads[ids[-1]]) == (None, (None, None))

    asyncio.run(test())


def test_a_letter_sent_again_under_its_id_changes_nothing_and_is_not_published_by_a_second_process(url: str) -> None:
    async def test() -> None:
        async with instance(url, relays=False) as one, instance(url, relays=False) as other:
            one.broker.is_away = True
            letter = one.transactions.sender.letter(Pack(order_id="1"), cause=None)
            for who in (one, other, one):
                async with who.transactions.begin() as work:
                    work.post(letter)
            assert await one.rows(select(outbox.c.id, outbox.c.owner)) == [(letter.envelope.id, one.owner.id)]
            (after,) = await other.publish(Placed(order_id="1"))
            await until(lambda: other.broker.ids == [after])
            assert other.dispatcher.pending_count <= 1
            one.broker.is_away = False
            await one.all_left()
            assert one.broker.ids == [letter.envelope.id]

    asyncio.run(test())


def test_an_event_recorded_again_under_its_derived_id_takes_no_second_place_in_its_order(url: str) -> None:
    async def test() -> None:
        async with instance(url) as one:
            id_ = derived_id(one.clock.time_us(), "a saga's step")
            for n in range(3):
                async with one.transactions.begin() as work:
                    work.post(work.sender.letter(Placed(order_id="1", n=n), cause=None, id_=id_))
            (next_,) = await one.publish(Placed(order_id="1"))
            await one.all_left()
            assert one.broker.ids == [id_, next_]
            first, second = (outgoing.properties.headers for outgoing in one.broker.sent)
            assert second["prev"] == first["seq"]
            assert await one.rows(select(sequence.c.last)) == [(second["seq"],)]

    asyncio.run(test())


def test_two_replies_to_one_request_differ_by_their_type_and_each_is_the_same_every_time(url: str) -> None:
    sender = Instance(url, 6.0).transactions.sender
    request = sender.letter(Pack(order_id="1"), cause=None, reply_to="eventplat.shop.replies").envelope

    ids = [sender.answer(request, type_, b"{}").envelope.id for type_ in (RUNNING, DONE, DONE)]

    assert ids[0] != ids[1] == ids[2]


def test_more_letters_than_are_held_in_memory_all_leave_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "HELD_MAX", 20)

    async def test() -> None:
        async with instance(url) as one:
            ids = await one.publish(*(Placed(order_id=str(n)) for n in range(75)))
            await one.all_left()
            assert sorted(one.broker.ids, key=str) == sorted(ids)

    asyncio.run(test())


def test_a_sweep_that_is_asked_for_while_rows_are_read_is_made_after_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "HELD_MAX", 20)
    monkeypatch.setattr(dispatch, "SWEEP_S", 3_600.0)   # or the next one would find them
    read, readings, published = outboxes.owned, list[int](), list[str]()

    async def test() -> None:
        async with instance(url) as one:

            async def owned(connection: Any, owner: str, *, limit: int) -> list[tuple[str, Outgoing]]:
                rows = await read(connection, owner, limit=limit)
                readings.append(len(rows))
                if len(readings) == 2:
                    published.extend(await one.publish(*(Placed(order_id=str(n)) for n in range(40))))
                return rows

            monkeypatch.setattr(outboxes, "owned", owned)
            await until(lambda: len(readings) == 1, "the sweep at the start")
            one.dispatcher.sweep()
            await until(lambda: len(one.broker.sent) == 40, "forty messages")
            assert sorted(one.broker.ids, key=str) == sorted(published)

    asyncio.run(test())


def test_a_commit_that_becomes_visible_long_after_it_was_given_up_is_found_by_a_later_sweep(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "SWEEP_S", 0.05)

    async def test() -> None:
        async with instance(url, relays=False) as one:
            letter = one.transactions.sender.letter(Pack(order_id="1"), cause=None)
            async with one.database.transaction() as connection:  # nobody is told of this commit
                await outboxes.append(connection, [letter], one.owner.id)
            await one.all_left()
            assert one.broker.ids == [letter.envelope.id]

    asyncio.run(test())


def test_a_row_that_is_committed_after_a_newer_one_is_sent_too(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "SWEEP_S", 0.05)

    async def test() -> None:
        async with instance(url, relays=False) as one:
            letters = [one.transactions.sender.letter(Pack(order_id=id_), cause=None) for id_ in "12"]
            older, newer = sorted(letters, key=lambda letter: letter.envelope.id)
            for letter in (newer, older):
                async with one.database.transaction() as connection:  # nobody is told: the rows are found by a sweep
                    await outboxes.append(connection, [letter], one.owner.id)
                await one.all_left()
            assert one.broker.ids == [newer.envelope.id, older.envelope.id]

    asyncio.run(test())


def test_rows_that_were_not_confirmed_go_before_those_that_came_later(url: str) -> None:
    async def test() -> None:
        async with instance(url) as one:
            later: list[str] = []

            async def publish_another() -> None:
                one.broker.before_confirm = None
                later.extend(await one.publish(Placed(order_id="1", n=2)))
                raise BrokerUnavailable("away")

            one.broker.before_confirm = publish_another
            (first,) = await one.publish(Placed(order_id="1", n=1))
            await until(lambda: later)
            await one.all_left()
            assert one.broker.ids == [first, first, *later]

    asyncio.run(test())


def test_a_slow_broker_makes_progress_with_what_it_did_confirm(url: str) -> None:
    async def test() -> None:
        async with instance(url) as one:
            one.broker.settles_at_most = 2
            ids = await one.publish(*(Placed(order_id=str(n)) for n in range(5)))
            await one.all_left()
            assert one.broker.ids == [*ids, *ids[2:], *ids[4:]]

    asyncio.run(test())


def test_rows_of_another_owner_are_neither_deleted_nor_given_back(url: str) -> None:
    async def test() -> None:
        async with instance(url, relays=False) as one:
            one.broker.is_away = True
            ids = await one.publish(Placed(order_id="1"), Placed(order_id="2"))
            async with one.database.transaction() as connection:
                await outboxes.remove(connection, ids[0], ids)
                await outboxes.postpone(connection, ids[0], ids, wait_us=0)
            assert await one.rows(select(outbox.c.owner, func.count()).group_by(outbox.c.owner)) == [(one.owner.id, 2)]

    asyncio.run(test())


def test_an_event_that_was_taken_back_leaves_the_log_too(url: str) -> None:
    async def test() -> None:
        async with instance(url) as one:
            (waits,) = await one.publish(Placed(order_id="1"), after_s=3_600)
            async with one.transactions.begin() as work:
                assert await work.cancel(waits)
            assert await one.rows(select(event_log.c.id)) == []

    asyncio.run(test())


def test_a_process_stays_owner_and_publishes_while_its_handlers_hold_every_connection(tmp_path: Path) -> None:
    from tests.servers import fresh_database  # noqa: PLC0415 - starts a server, only when a test needs it

    async def test() -> None:
        settings = load(
            data_dir=tmp_path, profile="dev", broker_url=f"embedded://{tmp_path / 'broker.db'}", database_url=fresh_database(),
            database_pool_size=1, process_term_s=0.5, heartbeat_s=0.1,
        )  # fmt: skip
        broker, clock = Broker(), SystemClock()
        out = Outgoings("orders", settings, broker, owners={}, clock=clock, chance=random.SystemRandom())  # type: ignore[arg-type]
        await out.start()
        before = out.owner.id
        async with out.transactions.begin() as work:
            id_ = work.publish(Placed(order_id="1"))
        broker.is_away = True
        started = clock.monotonic()
        async with out.database.transaction():  # the only connection, for longer than two terms
            await until(lambda: clock.monotonic() - started > 1.2)
            assert out.owner.may_publish
            assert out.owner.id == before
            broker.is_away = False
            await until(lambda: out.dispatcher.pending_count == 0)
        await out.stop()
        assert id_ in broker.ids

    asyncio.run(test())


def test_an_open_transaction_may_stand_for_as_long_as_the_slowest_handler_of_the_service_may_take(tmp_path: Path) -> None:
    from tests.servers import fresh_database  # noqa: PLC0415 - starts a server, only when a test needs it

    async def pack(_: Pack, __: Context) -> None: ...

    stock = Service("stock")
    stock.handles(Pack, timeout=300)(pack)

    async def limit(service: Service[None]) -> str:
        settings = load(data_dir=tmp_path, profile="dev", broker_url="embedded://", database_url=fresh_database())
        out = Outgoings(service, settings, Broker(), owners={}, clock=SystemClock(), chance=random.SystemRandom())  # type: ignore[arg-type]
        async with out.database.transaction() as connection:
            found: str = (await connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout")).scalar_one()
        await out.stop()
        return found

    assert asyncio.run(limit(stock)) == "315s"
    assert asyncio.run(limit(Service("mail"))) == "1min"


def test_the_only_process_of_a_database_stays_owner_behind_a_writer_that_takes_longer_than_its_term(tmp_path: Path) -> None:
    async def test() -> None:
        clock = SystemClock()
        database = Database(f"sqlite:///{tmp_path / 'orders.db'}", service="orders", clock=clock)
        await upgrade(database)
        ids = iter(f"01934f1e-7b1a-7000-8000-{n:012}" for n in range(9))
        owner = Owner(database, "orders", new_id=ids.__next__, term_s=0.1, clock=clock, is_only=True)
        await owner.start()
        before = owner.id
        started = clock.monotonic()
        async with database.transaction():
            await until(lambda: clock.monotonic() - started > 0.3)
            assert owner.may_publish
        renewed = owner._renewed
        await until(lambda: owner._renewed > renewed + 0.1)
        assert owner.id == before
        await owner.stop()
        await database.close()

    asyncio.run(test())
