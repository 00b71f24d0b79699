"""What no database would take as a message is parked on both, and keeps nobody behind it waiting."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from eventplat.messages.codec import Properties, to_properties
from eventplat.messages.envelope import DONE
from eventplat.messages.message import Command, Key
from eventplat.service.context import Context
from eventplat.service.service import Service
from eventplat.transactions.pending import pending
from tests.conformance.stage import Stage, until


class Add(Command[int], name="shop.add"):
    account: Key[str]


@pytest.fixture(params=["sqlite", "postgresql"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    if request.param == "sqlite":
        return Stage(tmp_path, None)
    from tests.servers import fresh_database  # noqa: PLC0415 - starts a server, only when a test needs it

    return Stage(tmp_path, fresh_database())


HOSTILE: dict[str, dict[str, Any]] = {
    "U+0000 in the key": {"headers": {"key": "a\0b"}},
    "U+0000 in the stream": {"headers": {"key": "a", "stream": "a\0b"}},
    "U+0000 in the type": {"type": "shop.add\0.v1"},
    "U+0000 in the sender": {"app_id": "a\0b"},
    "U+0000 in the id": {"message_id": "a\0b"},
    "a number for a text": {"headers": {"key": 1}},
    "a key too long": {"headers": {"key": "k" * 10_000}},
}


@pytest.mark.parametrize("changes", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_message_is_parked_and_the_next_is_handled(stage: Stage, changes: dict[str, Any]) -> None:
    service = Service("shop")

    @service.handles(Add)
    async def add(command: Add, ctx: Context) -> int:
        if command.account == "fails":
            raise ValueError("it was run")
        return 1

    async def test() -> None:
        async with stage:
            runner = await stage.run(service)
            properties: Properties = replace(to_properties(stage.envelope(Add(account="fails"))), **changes)
            await stage.send_bytes(Add(account="fails"), b'{"account":"fails"}', properties)
            assert (await stage.ask(Add(account="b"))).type == DONE

            (row,) = await until(lambda: stage.rows(runner, select(pending)), "the parked row")
            assert (row.state, row.handler, row.body) == ("dead", "shop.add", b'{"account":"fails"}')
            assert await stage.transport.depth(stage.names.queue("shop.add")) == 0

    asyncio.run(test())
