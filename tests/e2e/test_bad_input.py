"""Bad input to every route, and malformed messages on every queue: told or parked with the reason, and nothing half done."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.demo.day import side_by_side
from tests.e2e.bad_input import Request, operations
from tests.e2e.shops import KINDS, Open, opened
from tests.faults.books import audit, everything
from tests.faults.crash import wait_until_at_rest
from tests.faults.stack import Kind

SERVICES = ("orders", "stock", "payments", "shipments", "notifications")
AT_ONCE = 8


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_to_every_route_is_a_problem_with_a_next_move_and_changes_nothing(kind: Kind, tmp_path: Path) -> None:
    async def ask() -> None:
        async with opened(kind, tmp_path) as open_:
            routes = operations((await open_.http.get("/openapi.json")).json())
            assert {str(route).split("/")[1] for route in routes} >= {"orders", "items", "accounts", "shipments", "stocktake", "ledger"}
            for route in routes:
                assert (said := await _said(open_.http, route.good())) in {"done", "EP700"}, f"{route}: the good request is not: {said}"
            await wait_until_at_rest(open_.fetch)
            before = everything(open_.fetch, SERVICES, kind)
            bad = [request for route in routes for request in route.bad()]
            kinds_of_bad = {"negative", "zero", "huge", "null", "an unknown parameter in its query", "one byte over the limit"}
            assert all(any(request.what.endswith(each) for request in bad) for each in kinds_of_bad)

            wrong = [each for each in await side_by_side((_judge(open_.http, request) for request in bad), AT_ONCE) if each]

            assert wrong == []
            assert everything(open_.fetch, SERVICES, kind) == before
            assert audit(open_.fetch, {}) == []

    asyncio.run(ask())


LINE = {"sku": "GOODS", "quantity": 1, "unit_price": "10.00"}
ORDER = {"order_id": "O-2", "account_id": "BUYER", "lines": [LINE]}
ITEM = {"sku": "NEW", "price": "1.00"}
REFUSALS: list[tuple[str, Any, int, str]] = [
    ("GET /orders/NOBODY", None, 404, "unknown_order"),
    ("GET /items/NOBODY", None, 404, "unknown_item"),
    ("GET /accounts/NOBODY", None, 404, "unknown_account"),
    ("GET /shipments/NOBODY", None, 404, "unknown_shipment"),
    ("GET /operations/NOBODY", None, 404, "EP814"),
    ("GET /nowhere", None, 404, "EP803"),
    ("DELETE /orders", None, 405, "EP804"),
    ("POST /items", {**ITEM, "sku": "GOODS"}, 409, "item_exists"),
    ("POST /items", {**ITEM, "is_stocked": False, "available": 1}, 422, "not_stocked"),
    ("POST /item-imports", {"items": [ITEM, {**ITEM, "sku": "GOODS"}]}, 409, "items_exist"),
    ("POST /item-imports", {"items": [ITEM, ITEM]}, 422, "item_twice"),
    ("POST /items/NOBODY/corrections", {"quantity": 1, "reason": "found"}, 404, "unknown_items"),
    ("POST /items/GOODS/corrections", {"quantity": -100, "reason": "lost"}, 409, "below_zero"),
    ("POST /items/POSTAGE/corrections", {"quantity": 1, "reason": "found"}, 422, "not_stocked"),
    ("POST /accounts", {"account_id": "BUYER", "holder": "B"}, 409, "account_exists"),
    ("POST /account-imports", {"accounts": [{"account_id": "NEW", "holder": "N"}, {"account_id": "BUYER", "holder": "B"}]},
     409, "accounts_exist"),
    ("POST /accounts/NOBODY/deposits", {"amount": "1.00"}, 404, "unknown_account"),
    ("POST /accounts/BUYER/deposits", {"amount": "999999999.999"}, 409, "balance_too_large"),
    ("POST /orders", {**ORDER, "order_id": "O-1"}, 409, "already_started"),
    ("POST /orders", {**ORDER, "order_id": "O-3", "lines": [LINE, {**LINE, "sku": "NOBODY"}]}, 422, "unknown_items"),
    ("POST /orders", {**ORDER, "order_id": "O-4", "account_id": "NOBODY"}, 422, "unknown_account"),
    ("POST /orders", {**ORDER, "order_id": "O-5", "lines": [{**LINE, "quantity": 1_000_000}]}, 409, "out_of_stock"),
    ("POST /orders", {**ORDER, "order_id": "O-6", "lines": [{**LINE, "unit_price": "999999999"}]}, 409, "insufficient_funds"),
    ("POST /orders", {**ORDER, "order_id": "O-7", "lines": [{**LINE, "unit_price": "999999999"}] * 2}, 422, "total_too_large"),
    ("POST /orders/NOBODY/refunds", {"refund_id": "R-2"}, 404, "unknown_order"),
    ("POST /orders/O-5/refunds", {"refund_id": "R-2"}, 409, "not_completed"),
    ("POST /orders/O-1/refunds", {"refund_id": "R-2", "lines": [{"line": 9, "quantity": 1}]}, 409, "unknown_line"),
    ("POST /orders/O-1/refunds", {"refund_id": "R-2", "lines": [{"line": 1, "quantity": 9}]}, 409, "more_than_left"),
    ("POST /shipments/NOBODY/scans", {"status": "dispatched", "place": "Hull"}, 404, "unknown_shipment"),
    ("POST /shipments/O-1/scans", {"status": "delivered", "place": "Hull"}, 409, "wrong_way"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_schema_cannot_know_is_refused_by_the_service_with_nothing_half_done(kind: Kind, tmp_path: Path) -> None:
    async def ask() -> None:
        async with opened(kind, tmp_path) as open_:
            await _open_shop(open_)
            before = _without_refused_orders(everything(open_.fetch, SERVICES, kind))

            for route, body, status, reason in REFUSALS:
                method, _, path = route.partition(" ")
                answer = await open_.http.request(method, path, json=body)
                told = answer.json()
                assert (answer.status_code, told.get("reason", told["code"])) == (status, reason), route
                assert _problem(answer) == "", route

            await wait_until_at_rest(open_.fetch)
            assert _without_refused_orders(everything(open_.fetch, SERVICES, kind)) == before
            assert audit(open_.fetch, {"O-1": True, **{f"O-{number}": False for number in range(2, 8)}}) == []

    asyncio.run(ask())


async def _open_shop(open_: Open) -> None:
    shop = open_.shop
    answers = [
        await shop.create_item("GOODS", price="10.00", available=5),
        await shop.create_item("POSTAGE", price="1.00", available=0, is_stocked=False),
        await shop.open_account("BUYER", holder="B", balance="100.00"),
        await shop.place_order("O-1", "BUYER", [LINE]),
    ]
    assert all(answer.is_accepted for answer in answers)
    await wait_until_at_rest(open_.fetch)


def _without_refused_orders(rows: dict[str, list[str]]) -> dict[str, list[str]]:
    """The services' own rows; a refused order stays in the book, and what it took and gave back in the movements."""
    own = {table: kept for table, kept in rows.items() if ".eventplat_" not in table and not table.startswith("notifications.")}
    return {table: [row for row in kept if "'O-1'" in row or "'O-" not in row] for table, kept in own.items()}


async def _judge(http: httpx.AsyncClient, request: Request) -> str:
    """What is wrong with the answer to a bad request; empty: nothing."""
    answer = await _send(http, request)
    problem = _problem(answer)
    if not problem and answer.status_code != request.status:
        problem = f"{answer.status_code} instead of {request.status}"
    return f"{request}: {problem}" if problem else ""


def _problem(answer: httpx.Response) -> str:
    """Why `answer` is not a 4xx problem with a code and a next move; empty: it is one."""
    if not 400 <= answer.status_code < 500 or answer.headers.get("content-type") != "application/problem+json":
        return f"{answer.status_code} {answer.headers.get('content-type')} {answer.text[:200]}"
    told: dict[str, Any] = answer.json()
    is_whole = told.get("status") == answer.status_code and told.get("title") and re.fullmatch(r"EP[0-9]{3}", told.get("code", ""))
    return "" if is_whole and len(told.get("next", "")) > 10 else f"not a whole problem: {answer.text[:300]}"


async def _said(http: httpx.AsyncClient, request: Request) -> str:
    answer = await _send(http, request)
    return "done" if answer.is_success else str(answer.json()["code"])


async def _send(http: httpx.AsyncClient, request: Request) -> httpx.Response:
    headers = [(name.encode(), value.encode()) for name, value in request.headers.items()]
    return await http.request(request.method, request.path, content=request.content, headers=headers)
