"""Dead letters on both databases: what an operator finds, changes, lets run again and forgets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from eventplat.errors import BadEdit, NoSuchMessage
from eventplat.messages.codec import to_properties
from eventplat.messages.message import Command, Event, Key
from eventplat.retry import Retry
from eventplat.service.context import Context
from eventplat.service.dead_letters import PARKED, DeadLetters
from eventplat.service.runner import Runner
from eventplat.service.service import Service
from eventplat.transactions.dead_letters import CHUNK
from eventplat.transactions.inbox import inbox
from eventplat.transactions.pending import pending
from tests.conformance.stage import Stage, until

HOUR_US = 3_600 * 1_000_000


class Add(Command[int], name="shop.add"):
    account: Key[str]
    n: int = 1


class Moved(Event, name="shop.moved"):
    account: Key[str]
    n: int


class NoStock(Exception):
    pass


class Shop:
    """A service whose handlers fail as long as they are told to."""

    def __init__(self) -> None:
        self.fails: Callable[[Any], bool] = lambda message: message.n <= 0
        self.done: list[tuple[str, int]] = []
        self.service = Service("shop", retry=Retry(attempts=1))
        self.service.handles(Add)(self.add)
        self.service.on(Moved, ordered=True)(self.moved)

    async def add(self, command: Add, ctx: Context) -> int:
        if self.fails(command):
            if command.account == "odd":
                raise ValueError("odd")
            raise NoStock(f"no stock for {command.account} größer")
        self.done.append((command.account, command.n))
        return command.n

    async def moved(self, event: Moved, ctx: Context) -> None:
        if self.fails(event):
            raise NoStock("moved")
        self.done.append((event.account, event.n))


class Scene:
    """One service, its dead letters, and who acts on them."""

    def __init__(self, stage: Stage, shop: Shop, runner: Runner) -> None:
        self.stage, self.shop, self.runner = stage, shop, runner
        self.letters = DeadLetters(runner.out.database, stage.settings, stage.clock, by="ana")

    async def dead(self, *messages: Add) -> list[str]:
        """These messages, failed; their ids."""
        sent = [(message, self.stage.envelope(message)) for message in messages]
        await self.stage.send(*sent)
        ids = [envelope.id for _, envelope in sent]

        async def are_dead() -> bool:
            return {row.message_id for row in await self.letters.list(limit=1_000)} >= set(ids)

        await until(are_dead, "dead letters")
        return ids

    async def is_settled(self) -> bool:
        return not await self.rows()

    async def rows(self) -> dict[str, Any]:
        return {row.message_id: row for row in await self.stage.rows(self.runner, select(pending))}


@pytest.fixture(params=["sqlite", "postgresql"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    if request.param == "sqlite":
        return Stage(tmp_path, None)
    from tests.servers import fresh_database  # noqa: PLC0415 - starts a server, only when a test needs it

    return Stage(tmp_path, fresh_database())


def run(stage: Stage, test: Callable[[Scene], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with stage:
            shop = Shop()
            await test(Scene(stage, shop, await stage.run(shop.service)))

    asyncio.run(whole())


def test_dead_letters_are_grouped_by_handler_error_and_place_and_found_by_each(stage: Stage) -> None:
    async def test(scene: Scene) -> None:
        many = await scene.dead(*(Add(account=f"a{n}", n=-n) for n in range(3)))
        (odd,) = await scene.dead(Add(account="odd", n=0))

        first, second = await scene.letters.groups()
        assert (first.handler, first.error, first.count) == ("shop.add", "NoStock", 3)
        assert (second.handler, second.error, second.count) == ("shop.add", "ValueError", 1)
        assert str(first.place).startswith("test_dead_letters.Shop.add:") or ".test_dead_letters.Shop.add:" in str(first.place)
        assert first.oldest_us <= first.newest_us

        async def ids(**where: Any) -> set[str]:
            return {row.message_id for row in await scene.letters.list(**where)}

        assert await ids(error="NoStock") == await ids(place=first.place, error="NoStock") == set(many)
        assert await ids(text="FOR A1") == {many[1]}
        assert await ids(text="größer") == set(many)
        assert await ids(text="100%_") == set()
        assert await ids(handler="shop.add", since=timedelta(minutes=5)) == {*many, odd}
        assert await ids(since=datetime(2100, 1, 1, tzinfo=UTC)) == set()
        assert await ids(state="held") == set()
        assert len(await scene.letters.list(limit=2)) == 2

    run(stage, test)


def test_a_dead_letter_is_shown_with_every_attempt_and_its_traceback(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        (id_,) = await scene.dead(Add(account="a", n=0))

        row = await scene.letters.show(id_)

        assert (row.state, row.attempts, json.loads(row.body)) == ("dead", 1, {"account": "a", "n": 0})
        (attempt,) = row.errors
        assert (attempt["type"], attempt["attempt"], attempt["place"]) == ("NoStock", 1, row.place)
        assert "raise NoStock(" in attempt["traceback"]
        with pytest.raises(NoSuchMessage, match="is not in shop"):
            await scene.letters.show(scene.stage.new_id())

    run(Stage(tmp_path, None), test)


def test_an_edited_dead_letter_runs_under_its_id_and_keeps_what_it_was(stage: Stage) -> None:
    async def test(scene: Scene) -> None:
        (id_,) = await scene.dead(Add(account="a", n=0))

        shown = await scene.letters.edit(id_, '{"account": "a", "n": -5}', against=Add, dry_run=True)
        assert shown.diff.splitlines()[-3:] == ['-  "n": 0', '+  "n": -5', " }"]
        assert (await scene.letters.show(id_)).body == b'{"account":"a","n":0}', "a dry run changes nothing"

        await scene.letters.edit(id_, '{"account": "a", "n": -5}', against=Add)
        assert (await scene.letters.replay(id_)).count == 1
        row = await until(lambda: is_dead_again(scene, id_, entries=4))
        errors = [(entry.get("action"), entry.get("by"), entry.get("body")) for entry in row.errors]
        assert errors == [(None, None, None), ("edited", "ana", '{"account":"a","n":0}'), ("replayed", "ana", None), (None, None, None)]

        await scene.letters.edit(id_, '{"account": "a", "n": 7}', against=Add)
        await scene.letters.replay(id_)
        await until(scene.is_settled)
        assert scene.shop.done == [("a", 7)]
        settled = await scene.stage.rows(scene.runner, select(inbox.c.message_id, inbox.c.state))
        assert [(entry.message_id, entry.state) for entry in settled] == [(id_, "done")]

    run(stage, test)


async def is_dead_again(scene: Scene, id_: str, *, entries: int) -> Any:
    row = await scene.letters.show(id_)
    return row if row.state == "dead" and len(row.errors) == entries else None


@pytest.mark.parametrize(
    ("body", "says"),
    [('{"n": 1}', "account: Field required"), ('{"account": "b", "n": 1}', "the key 'b'"), ("nonsense", "no Add"),
     ('{"account": "a", "n": "x"}', "n: ")],
)  # fmt: skip
def test_a_body_that_the_handler_would_not_take_is_refused(tmp_path: Path, body: str, says: str) -> None:
    async def test(scene: Scene) -> None:
        (id_,) = await scene.dead(Add(account="a", n=0))
        with pytest.raises(BadEdit, match=says):
            await scene.letters.edit(id_, body, against=Add)
        assert (await scene.letters.show(id_)).body == b'{"account":"a","n":0}'

    run(Stage(tmp_path, None), test)


def test_many_are_replayed_at_a_rate_in_the_order_of_their_ids(stage: Stage) -> None:
    async def test(scene: Scene) -> None:
        (other, first) = await scene.dead(Add(account="odd", n=0), Add(account="a", n=0))
        ids = sorted([first, *(scene.stage.new_id() for _ in range(CHUNK + 5))])
        like = (await scene.rows())[first]._mapping
        copies = [{**like, "message_id": id_, "properties": like["properties"].replace(first, id_)} for id_ in ids if id_ != first]
        await scene.stage.rows(scene.runner, insert(pending).values(copies))

        assert (await scene.letters.replay(error="NoStock", rate=0.001, dry_run=True)).count == len(ids)
        assert {row.state for row in (await scene.rows()).values()} == {"dead"}

        done = await scene.letters.replay(error="NoStock", rate=0.001)

        rows = await scene.rows()
        assert [id_ for _, id_ in done.done] == ids
        due = [rows[id_].due_us for id_ in ids[1:]]
        assert [later - before for before, later in pairwise(due)] == [1_000 * 1_000_000] * (len(ids) - 2)
        assert {(rows[id_].state, rows[id_].attempts) for id_ in ids[1:]} == {("retry", 0)}
        assert rows[other].state == "dead"

    run(stage, test)


def test_one_message_is_replayed_once_however_many_replay_it_at_once(stage: Stage) -> None:
    async def test(scene: Scene) -> None:
        (id_,) = await scene.dead(Add(account="a", n=0))
        scene.shop.fails = lambda _: False
        keys = await scene.letters.select(id_)

        done = await asyncio.gather(*(scene.letters.replay(keys=keys) for _ in range(8)))

        assert sum(each.count for each in done) == 1
        await until(lambda: scene.shop.done)
        await scene.stage.ask(Add(account="b"))
        assert scene.shop.done == [("a", 0), ("b", 1)]

    run(stage, test)


def test_a_discarded_message_never_runs_also_not_by_a_late_copy(stage: Stage) -> None:
    async def test(scene: Scene) -> None:
        command = Add(account="a", n=0)
        envelope = scene.stage.envelope(command)
        await scene.stage.send((command, envelope))
        await until(scene.letters.list)
        scene.shop.fails = lambda _: False

        assert (await scene.letters.discard(envelope.id, dry_run=True)).count == 1
        assert len(await scene.rows()) == 1, "a dry run changes nothing"
        assert (await scene.letters.discard(envelope.id)).count == 1
        await scene.stage.send((command, envelope))
        await scene.stage.ask(Add(account="b"))

        assert scene.shop.done == [("b", 1)]
        assert await scene.rows() == {}
        with pytest.raises(NoSuchMessage, match=envelope.id):
            await scene.letters.discard(envelope.id)

    run(stage, test)


@pytest.mark.parametrize("how", ["discarded", "skipped", "replayed"])
def test_what_is_held_behind_a_dead_event_goes_on_when_it_is(stage: Stage, how: str) -> None:
    async def test(scene: Scene) -> None:
        async with scene.runner.out.transactions.begin() as work:
            first, second = work.publish(Moved(account="a", n=0)), work.publish(Moved(account="a", n=2))
        await until(lambda: is_held(scene, second), "the second is held")
        assert (await scene.letters.show(first)).state == "dead"
        scene.shop.fails = lambda _: False

        if how == "discarded":
            await scene.letters.discard(first)
        elif how == "skipped":
            assert (await scene.letters.skip(second, dry_run=True)).message_id == second
            await scene.letters.skip(second)
        else:
            await scene.letters.replay(first)
        await until(lambda: ("a", 2) in scene.shop.done)

        assert scene.shop.done == ([("a", 0)] if how == "replayed" else []) + [("a", 2)]
        with pytest.raises(NoSuchMessage):
            await scene.letters.skip(second)

    run(stage, test)


async def is_held(scene: Scene, id_: str) -> bool:
    row = (await scene.rows()).get(id_)
    return row is not None and row.state == "held"


def test_what_came_as_no_message_is_shown_and_discarded_and_nothing_else(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        properties = to_properties(scene.stage.envelope(Add(account="a")))
        properties.message_id = "no id"
        await scene.stage.send_bytes(Add(account="a"), b'{"account":"a"}', properties)
        (row,) = await until(scene.letters.list)

        done = await scene.letters.replay()
        with pytest.raises(NoSuchMessage, match="no message"):
            await scene.letters.edit(row.message_id, "{}", against=Add)

        assert (done.count, list(done.refused.values())) == (0, [PARKED])
        assert (await scene.letters.groups())[0].error == "Malformed"
        assert (await scene.letters.discard()).count == 1
        assert await scene.letters.list() == []

    run(Stage(tmp_path, None), test)


def test_an_event_that_is_dead_in_two_handlers_is_acted_on_where_it_is_named(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        (id_,) = await scene.dead(Add(account="a", n=0))
        copy = {**(await scene.rows())[id_]._mapping, "handler": "shop.other"}
        await scene.stage.rows(scene.runner, insert(pending).values(copy))

        with pytest.raises(NoSuchMessage, match=r"stands in shop\.add, shop\.other"):
            await scene.letters.show(id_)
        assert (await scene.letters.show(id_, handler="shop.other")).handler == "shop.other"
        assert (await scene.letters.discard(id_, handler="shop.other")).done == (("shop.other", id_),)
        assert [row.handler for row in await scene.letters.list()] == ["shop.add"]

    run(Stage(tmp_path, None), test)


def test_an_isolated_message_is_seen_and_can_be_discarded_before_it_kills_again(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        (id_,) = await scene.dead(Add(account="a", n=0))
        later = update(pending).values(state="isolated", due_us=1 << 60)
        await scene.stage.rows(scene.runner, later)

        assert [row.message_id for row in await scene.letters.list(state="isolated")] == [id_]
        assert (await scene.letters.replay()).count == 0
        assert (await scene.letters.discard(state="isolated")).count == 1

    run(Stage(tmp_path, None), test)
