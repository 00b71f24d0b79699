"""Queues that eventplat did not declare: read as exactly once as its own, and written with exact bytes, on both brokers and databases."""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel
from sqlalchemy import select

from eventplat.broker.topology import Queue, Topology
from eventplat.broker.transport import Delivery, Outgoing
from eventplat.clock import SystemClock
from eventplat.errors import ForeignQueueMissing, Malformed, NotForeign, TooLarge
from eventplat.messages.codec import BODY_BYTES_MAX, Foreign, Properties
from eventplat.messages.message import Command, Key
from eventplat.retry import Retry
from eventplat.service.client import Client
from eventplat.service.context import Context
from eventplat.service.service import Service
from eventplat.transactions.inbox import inbox
from eventplat.transactions.outbox_tables import outbox
from eventplat.transactions.pending import pending
from tests.conformance.stage import Stage, until


class Order(BaseModel):
    number: int
    lines: list[str] = []


class Tell(Command[None], name="shop.tell"):
    to: Key[str]
    fails: bool = False


@dataclass
class Corner:
    """A stage, and the name of a queue of another system on its broker."""

    stage: Stage
    queue: str

    async def declare(self, type_: Literal["classic", "quorum"] = "classic") -> None:
        await self.stage.transport.declare(Topology(queues=(Queue(self.queue, type_),)))

    async def put(self, *bodies: bytes, **properties: Any) -> None:
        sent = [Outgoing("", self.queue, Properties(**properties), body) for body in bodies]
        await self.stage.transport.publish(sent)

    async def hear(self) -> list[Delivery]:
        """What comes to the foreign queue from now on."""
        heard: list[Delivery] = []

        def receive(delivery: Delivery) -> None:
            delivery.ack()
            heard.append(delivery)

        await self.stage.transport.consume(Queue(self.queue, "classic"), receive, prefetch=100)
        return heard

    async def is_empty(self) -> bool:
        return await self.stage.transport.depth(self.queue) == 0


@pytest.fixture(params=["embedded", "rabbitmq"])
def corner(request: pytest.FixtureRequest, tmp_path: Path) -> Corner:
    queue = f"legacy-{random.randrange(1 << 40):x}.orders"
    if request.param == "embedded":
        return Corner(Stage(tmp_path, None), queue)
    from tests.servers import fresh_database, rabbitmq_url  # noqa: PLC0415 - starts servers, only when a test needs them

    return Corner(Stage(tmp_path, fresh_database(), broker_url=rabbitmq_url(), prefix=f"test-{uuid.uuid4().hex[:12]}"), queue)


def played(corner: Corner, test: Callable[[Stage], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with corner.stage as stage:
            try:
                await test(stage)
            finally:
                for runner in list(stage._runners):
                    await stage.stop(runner)
                await _delete(corner)

    asyncio.run(whole())


async def _delete(corner: Corner) -> None:
    if corner.stage.settings.broker().startswith("amqp"):
        import pika  # noqa: PLC0415 - the transport deletes nothing

        connection = pika.BlockingConnection(pika.URLParameters(corner.stage.settings.broker()))
        connection.channel().queue_delete(corner.queue)
        connection.close()


class Shop:
    """Reads orders as `decode` makes them; fails the first attempts of those it is told to."""

    def __init__(self, corner: Corner, **options: Any) -> None:
        self.taken: list[tuple[Any, int]] = []
        self.fails: set[int] = set()
        self.service = Service("shop", retry=Retry(attempts=3, first=0.01, longest=0.01))
        self.service.consume(queue=corner.queue, name="from-legacy", **options)(self.take)

    async def take(self, order: Any, ctx: Context) -> None:
        number = order.number if isinstance(order, Order) else order["number"]
        if number in self.fails and ctx.attempt < 3:
            raise RuntimeError("told to")
        assert isinstance(ctx.envelope, Foreign)
        self.taken.append((order, ctx.attempt))


@pytest.mark.parametrize("type_", ["classic", "quorum"])
def test_each_message_is_handled_once_by_what_tells_a_copy(corner: Corner, type_: Literal["classic", "quorum"]) -> None:
    shop = Shop(corner, decode=Order, id=lambda order: order.number)

    async def test(stage: Stage) -> None:
        await corner.declare(type_)
        await corner.put(b'{"number":1}', b'{"number":2,"lines":["a"]}', b'{"number":1}')
        runner = await stage.run(shop.service)
        await corner.put(b'{"number":2,"lines":["a"]}', b'{"number":3}')
        await until(lambda: len(shop.taken) == 3)
        await until(corner.is_empty)
        await until(lambda: not runner.in_flight)
        assert sorted(order.number for order, _ in shop.taken) == [1, 2, 3]
        rows = await stage.rows(runner, select(inbox.c.consumer, inbox.c.state))
        assert [tuple(row) for row in rows] == [("shop.from-legacy", "done")] * 3

    played(corner, test)


def test_what_failed_runs_again_from_the_database_as_it_was_read_from_the_wire(corner: Corner) -> None:
    seen: list[tuple[bytes, dict[str, Any], str | None]] = []

    def decode(body: bytes, properties: Properties) -> dict[str, Any]:
        seen.append((body, properties.headers, properties.content_type))
        return {"number": int(body)}

    shop = Shop(corner, decode=decode)
    shop.fails = {7}

    async def test(stage: Stage) -> None:
        await corner.declare()
        runner = await stage.run(shop.service)
        properties = {"headers": {"tenant": "north", "depth": {"n": [1]}}, "content_type": "text/plain", "message_id": "nr-7"}
        await corner.put(b"7", **properties)
        await until(lambda: shop.taken == [({"number": 7}, 3)])
        await corner.put(b"7", **properties)
        await until(corner.is_empty)
        await until(lambda: not runner.in_flight)
        assert seen == [(b"7", {"tenant": "north", "depth": {"n": [1]}}, "text/plain")] * 3
        assert not await stage.rows(runner, select(pending.c.message_id))

    played(corner, test)


BAD: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "no JSON": (b"{", {"message_id": "a"}, "it cannot be decoded: JSONDecodeError"),
    "no object": (b"[1]", {"message_id": "a"}, "it is a list, not a JSON object"),
    "no id": (b'{"number":1}', {}, "its message_id is missing"),
    "no text": (b"\xff\0", {"message_id": "a\0b", "headers": {"h": "\0"}}, "it cannot be decoded: UnicodeDecodeError"),
}


@pytest.mark.parametrize(("body", "properties", "reason"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_read_is_parked_with_its_bytes_and_the_next_is_handled(
    corner: Corner, body: bytes, properties: dict[str, Any], reason: str
) -> None:
    shop = Shop(corner)

    async def test(stage: Stage) -> None:
        await corner.declare()
        runner = await stage.run(shop.service)
        await corner.put(body, **properties)
        await corner.put(b'{"number":2}', message_id="good")
        await until(lambda: shop.taken == [({"number": 2}, 1)])
        (row,) = await until(lambda: stage.rows(runner, select(pending)))
        assert (row.state, row.handler, bytes(row.body)) == ("dead", "shop.from-legacy", body)
        assert reason in row.errors

    played(corner, test)


def test_an_id_may_be_a_property_or_a_header(corner: Corner) -> None:
    shop = Shop(corner, id="order-number")

    async def test(stage: Stage) -> None:
        await corner.declare()
        await stage.run(shop.service)
        for number in (1, 1, 2):
            await corner.put(b'{"number":%d}' % number, headers={"order-number": number})
        await until(lambda: len(shop.taken) == 2)
        await until(corner.is_empty)
        assert sorted(order["number"] for order, _ in shop.taken) == [1, 2]

    played(corner, test)


def test_what_may_have_killed_its_process_is_run_alone_from_the_database(corner: Corner, caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop(corner)

    async def test(stage: Stage) -> None:
        await corner.declare()
        await corner.put(b'{"number":1}', message_id="a")
        received = asyncio.Event()
        other = await stage._open()
        await other.consume(Queue(corner.queue, "classic"), lambda _: received.set(), prefetch=1)
        await received.wait()
        await other.close()
        with caplog.at_level(logging.WARNING):
            await stage.run(shop.service)
            await until(lambda: shop.taken)
        assert "it runs alone from now on" in caplog.text

    played(corner, test)


def test_a_queue_that_is_not_there_is_an_error_that_says_whose_it_is_and_is_not_made(corner: Corner) -> None:
    shop = Shop(corner)

    async def test(stage: Stage) -> None:
        with pytest.raises(ForeignQueueMissing, match=r"shop\.from-legacy reads a foreign queue.*Start the system that declares it"):
            await stage.run(shop.service)
        assert await stage.transport.depth(corner.queue) is None

    played(corner, test)


def test_raw_bytes_leave_with_the_commit_and_not_with_a_rollback(corner: Corner) -> None:
    service = Service("shop", retry=Retry(attempts=1))

    @service.handles(Tell)
    async def tell(command: Tell, ctx: Context) -> None:
        headers = {"to": command.to, "n": 1}
        ctx.send_raw(routing_key=corner.queue, body=b"\x00\xff", headers=headers, properties=Properties(content_type="x/y", type="T"))
        if command.fails:
            raise RuntimeError("told to")

    async def test(stage: Stage) -> None:
        await corner.declare()
        heard = await corner.hear()
        runner = await stage.run(service)
        await stage.ask(Tell(to="a", fails=True))
        await stage.ask(Tell(to="b"))
        (delivery,) = await until(lambda: heard)
        assert (delivery.body, delivery.properties.headers) == (b"\x00\xff", {"to": "b", "n": 1})
        assert (delivery.properties.content_type, delivery.properties.type, delivery.properties.app_id) == ("x/y", "T", "shop")
        assert uuid.UUID(delivery.properties.message_id or "").version == 7
        await until(lambda: _nothing_left(stage, runner))

    played(corner, test)


def test_raw_bytes_that_no_queue_takes_are_kept_until_one_does(corner: Corner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventplat.transactions.dispatch.RETURNED_WAIT_US", 10_000)

    async def test(stage: Stage) -> None:
        runner = await stage.run(Service("shop"))
        async with Client("shop", settings=stage.settings, transport=stage.transport) as client:
            async with client.transaction() as tx:
                tx.send_raw(routing_key=corner.queue, body=b"1")
            await until(lambda: stage.rows(runner, select(outbox.c.id).where(outbox.c.attempts > 0)))
            await corner.declare()
            heard = await corner.hear()
            await until(lambda: [delivery.body for delivery in heard] == [b"1"])
            await until(lambda: _nothing_left(stage, runner))

    played(corner, test)


@pytest.mark.parametrize(("refused", "error"), [
    ({"exchange": "eventplat.events", "routing_key": "a", "body": b""}, NotForeign),
    ({"routing_key": "eventplat.shop.tell", "body": b""}, NotForeign),
    ({"routing_key": "a", "body": b" " * (BODY_BYTES_MAX + 1)}, TooLarge),
    ({"routing_key": "a", "body": b"", "headers": {"n": 1.5}}, Malformed),
])  # fmt: skip
def test_raw_bytes_that_could_never_leave_are_refused_where_they_are_sent(tmp_path: Path, refused: Any, error: type[Exception]) -> None:
    async def test() -> None:
        async with Stage(tmp_path, None) as stage:
            await stage.run(Service("shop"))
            async with Client("shop", settings=stage.settings, transport=stage.transport, clock=SystemClock()) as client:
                with pytest.raises(error):
                    async with client.transaction() as tx:
                        tx.send_raw(**refused)

    asyncio.run(test())


async def _nothing_left(stage: Stage, runner: Any) -> bool:
    return not await stage.rows(runner, select(outbox.c.id))
