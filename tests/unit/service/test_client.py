"""The client: transactions, FastAPI requests, somebody else's session, and questions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from eventplat.errors import Failed, Rejected, TimedOut, Unroutable
from eventplat.messages.message import Command, Event, Key, Query
from eventplat.retry import Retry
from eventplat.service.client import Client, Transaction
from eventplat.service.context import Context
from eventplat.service.runner import Runner
from eventplat.service.service import Service
from eventplat.transactions.outbox_tables import event_log
from tests.conformance.stage import Stage, until


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)


class Placed(Event, name="orders.placed"):
    order_id: Key[str]


class Reserve(Command[int], name="orders.reserve"):
    n: int


class Count(Query[list[str]], name="orders.count"):
    pass


class Nowhere(Command[None], name="nobody.nowhere"):
    pass


class Scene:
    """A service of orders, and a client that acts in its name."""

    def __init__(self, stage: Stage, runner: Runner, client: Client, heard: list[str]) -> None:
        self.stage, self.runner, self.client, self.heard = stage, runner, client, heard

    async def orders(self) -> list[str]:
        return sorted(row.id for row in await self.stage.rows(self.runner, select(Order.id)))

    async def logged(self) -> int:
        return len(await self.stage.rows(self.runner, select(event_log.c.id)))


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    heard: list[str] = []
    service = Service("orders", tables=Base.metadata, retry=Retry(attempts=1))

    @service.on(Placed)
    async def placed(event: Placed, ctx: Context) -> None:
        heard.append(event.order_id)

    @service.handles(Reserve)
    async def reserve(command: Reserve, ctx: Context) -> int:
        if command.n == 0:
            raise Rejected("none", status=410, n=0)
        if command.n < 0:
            raise RuntimeError("broken")
        if command.n > 99:
            await asyncio.sleep(0.3)
        return command.n

    @service.handles(Count)
    async def count(query: Count, ctx: Context) -> list[str]:
        return [order.id for order in (await ctx.db.scalars(select(Order)))]

    async with Stage(folder, None, drain_s=0.1) as stage:
        runner = await stage.run(service)
        async with Client("orders", settings=stage.settings) as client:
            yield Scene(stage, runner, client, heard)


def run(folder: Path, test: Callable[[Scene], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with scene(folder) as found:
            await test(found)

    asyncio.run(whole())


def test_a_transaction_commits_rows_and_messages_together(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        async with scene.client.transaction() as tx:
            tx.db.add(Order(id="1"))
            tx.publish(Placed(order_id="1"))
        await until(lambda: scene.heard)
        assert (scene.heard, await scene.orders()) == (["1"], ["1"])

    run(tmp_path, test)


def test_a_transaction_that_raises_leaves_neither(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        with pytest.raises(ZeroDivisionError):
            async with scene.client.transaction() as tx:
                tx.db.add(Order(id="1"))
                tx.publish(Placed(order_id="1"))
                raise ZeroDivisionError
        assert (await scene.orders(), await scene.logged()) == ([], 0)

    run(tmp_path, test)


def test_a_fastapi_request_commits_before_its_response_and_rolls_back_an_error(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        app = FastAPI()
        per_request = Depends(scene.client.per_request, scope="function")

        @app.post("/orders/{order_id}")
        async def place(order_id: str, tx: Transaction = per_request) -> None:
            tx.db.add(Order(id=order_id))
            tx.publish(Placed(order_id=order_id))
            if order_id == "bad":
                raise HTTPException(409)

        transport: Any = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            assert (await http.post("/orders/good")).status_code == 200
            assert await scene.orders() == ["good"]
            assert (await http.post("/orders/bad")).status_code == 409
        await until(lambda: scene.heard)
        assert (scene.heard, await scene.orders(), await scene.logged()) == (["good"], ["good"], 1)

    run(tmp_path, test)


def test_messages_joined_to_another_session_leave_with_its_commit_alone(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        engine = scene.runner.out.database.engine
        async with AsyncSession(engine) as session:
            tx = await scene.client.join(session)
            session.add(Order(id="rolled back"))
            tx.publish(Placed(order_id="rolled back"))
            await session.rollback()
        async with AsyncSession(engine) as session:
            tx = await scene.client.join(session)
            assert tx.db is session
            session.add(Order(id="1"))
            tx.publish(Placed(order_id="1"))
            await session.commit()
        await until(lambda: scene.heard)
        assert (scene.heard, await scene.orders(), await scene.logged()) == (["1"], ["1"], 1)

    run(tmp_path, test)


@pytest.mark.parametrize("ending", ["committed", "undone"])
def test_what_a_savepoint_takes_back_is_not_sent_and_what_it_keeps_is(tmp_path: Path, ending: str) -> None:
    async def test(scene: Scene) -> None:
        async with AsyncSession(scene.runner.out.database.engine) as session:
            tx = await scene.client.join(session)
            tx.publish(Placed(order_id="before"))
            savepoint = await session.begin_nested()
            tx.publish(Placed(order_id="inside"))
            await (savepoint.commit() if ending == "committed" else savepoint.rollback())
            tx.publish(Placed(order_id="after"))
            await session.commit()
        wanted = ["before", "inside", "after"] if ending == "committed" else ["before", "after"]
        await until(lambda: len(scene.heard) >= len(wanted))
        assert (sorted(scene.heard), await scene.logged()) == (sorted(wanted), len(wanted))

    run(tmp_path, test)


def test_a_session_that_rolled_back_and_goes_on_sends_only_what_it_joined_again(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        async with AsyncSession(scene.runner.out.database.engine) as session:
            lost = await scene.client.join(session)
            lost.publish(Placed(order_id="lost"))
            await session.rollback()
            session.add(Order(id="alone"))
            await session.commit()
            for order_id in ("1", "2"):
                tx = await scene.client.join(session)
                tx.publish(Placed(order_id=order_id))
                await session.commit()
        await until(lambda: len(scene.heard) >= 2)
        assert (sorted(scene.heard), await scene.logged()) == (["1", "2"], 2)

    run(tmp_path, test)


def test_a_message_that_waits_is_taken_back_after_its_commit_and_only_once(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        async with scene.client.transaction() as tx:
            waits, kept = (tx.publish(Placed(order_id=order_id), after=3_600) for order_id in ("1", "2"))
        async with scene.client.transaction() as tx:
            unsent = tx.publish(Placed(order_id="3"), after=3_600)
            assert await tx.cancel(unsent)
        left = await scene.client.publish(Placed(order_id="4"))
        await until(lambda: scene.heard)

        assert [await scene.client.cancel(id_) for id_ in (waits, waits, unsent, left)] == [True, False, False, False]
        assert {row.id for row in await scene.stage.rows(scene.runner, select(event_log.c.id))} == {kept, left}

    run(tmp_path, test)


def test_a_failed_message_is_replayed_and_its_handler_paused_from_a_script(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        with pytest.raises(Failed):
            await scene.client.ask(Reserve(n=-1))
        (group,) = await scene.client.dead_letters.groups(handler="orders.reserve")
        assert (group.error, group.count) == ("RuntimeError", 1)
        assert await scene.client.handlers.pause("orders.reserve")
        assert (await scene.client.dead_letters.replay(error="RuntimeError")).count == 1

        state = (await scene.client.handlers.list())["orders.reserve"]

        assert state.pause is not None
        assert state.pause.by == scene.client.dead_letters.by

    run(tmp_path, test)


def test_a_question_is_answered_with_its_type(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        async with scene.client.transaction() as tx:
            tx.db.add_all([Order(id="1"), Order(id="2")])
        assert await scene.client.ask(Count()) == ["1", "2"]
        assert await scene.client.ask(Reserve(n=3)) == 3

    run(tmp_path, test)


def test_each_way_to_have_no_answer_is_an_error_of_its_own(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        with pytest.raises(Rejected) as rejected:
            await scene.client.ask(Reserve(n=0))
        assert (rejected.value.reason, rejected.value.status, rejected.value.facts) == ("none", 410, {"n": 0})
        with pytest.raises(Failed, match="broken"):
            await scene.client.ask(Reserve(n=-1))
        with pytest.raises(Unroutable):
            await scene.client.ask(Nowhere())
        with pytest.raises(TimedOut):
            await scene.client.ask(Reserve(n=100), timeout=0.05)

    run(tmp_path, test)
