"""The runner: how many places each kind of work gets."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from eventplat.broker.consumer import Consumer
from eventplat.messages.message import Command, Key
from eventplat.sagas.saga import Saga
from eventplat.service.handlers import Handlers
from eventplat.service.service import Service
from tests.conformance.stage import Stage


class Place(Command[None], name="orders.place"):
    order_id: Key[str]


@pytest.mark.parametrize(("pool_size", "starts"), [(10, 2), (1, 1)])
def test_a_rush_begins_fewer_sagas_at_a_time_than_it_takes_answers(tmp_path: Path, pool_size: int, starts: int) -> None:
    handlers = Handlers[None]()

    @handlers.saga(Place)
    async def checkout(order: Place, saga: Saga) -> None: ...

    orders = Service("orders")
    orders.include(handlers)

    async def test() -> None:
        async with Stage(tmp_path, None, database_pool_size=pool_size) as stage:
            runner = await stage.run(orders)
            places = {consumer.queue.name: consumer.concurrency for consumer in runner._consumers if isinstance(consumer, Consumer)}
            assert places[stage.names.queue("orders.place")] == starts
            assert places[stage.names.replies("orders")] == pool_size

    asyncio.run(test())
