"""The gateway dies when the broker has confirmed a command and nobody has answered yet: done once, and told on request."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.shops import Open, opened
from tests.faults.books import audit
from tests.faults.crash import wait_until_at_rest
from tests.faults.stack import Kind

WITHIN_S = 60.0
ORDER = {"order_id": "o-1", "account_id": "ann", "country": "France", "lines": [{"sku": "CUP", "quantity": 2, "unit_price": "3.00"}]}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "victim"), [("embedded", "embedded"), ("local", "gateway")])
def test_a_command_whose_gateway_died_is_carried_out_once_and_its_retry_gets_the_outcome(kind: Kind, victim: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(kind, tmp_path) as shop:
            await shop.shop.create_item("CUP", price="3.00", available=5)
            await shop.shop.open_account("ann", holder="Ann", balance="10.00")
            await shop.stack.arm(victim, "gateway.after_publish=kill")

            with pytest.raises(httpx.TransportError):
                await place(shop)

            await until_completed(shop)  # nobody has asked again
            assert [(death.name, death.code) for death in shop.stack.deaths] == [(victim, -9)]
            assert "failpoint gateway.after_publish kill" in shop.stack.log(victim)
            await shop.stack.ready()
            first, second = await place(shop), await place(shop)
            assert (first.status_code, first.json()["status"], first.json()["total"]) == (201, "completed", "6.00")
            assert second.content == first.content
            await wait_until_at_rest(shop.fetch)
            assert audit(shop.fetch, {"o-1": True}) == []
            assert shop.fetch("stock", "SELECT available FROM item") == [(3,)]

    asyncio.run(run())


async def place(shop: Open) -> httpx.Response:
    return await shop.http.post("/orders", json=ORDER, headers={"Idempotency-Key": "k"})


async def until_completed(shop: Open) -> None:
    until = time.monotonic() + WITHIN_S
    while shop.fetch("orders", "SELECT status FROM placed_order") != [("completed",)]:
        assert time.monotonic() < until, "the confirmed command was not carried out"
        await asyncio.sleep(0.1)
