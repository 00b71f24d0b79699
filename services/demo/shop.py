"""Shop: the reference services over HTTP, as a careful client uses them.

Every request has an Idempotency-Key and is repeated under it until it is answered: after a lost connection, a
503, a 409 "still running". A 202 is followed to its end. So what a caller is told is final, whatever was restarted meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx

AGAIN = frozenset({502, 503, 504})
PAUSE_S = 0.2
PATIENCE_S = 180.0


@dataclass(frozen=True)
class Answer:
    """How a request ended."""

    status: int
    body: Mapping[str, Any]
    seconds: float
    tries: int = 1

    @property
    def is_accepted(self) -> bool:
        """Whether it was done."""
        return self.status < 300

    @property
    def reason(self) -> str:
        """Why it was not done: the problem's machine-readable word."""
        return str(self.body.get("reason") or self.body.get("code") or self.body.get("title") or self.status)


@dataclass
class Shop:
    """Talks to one gateway.

    Args:
        http: With the gateway's base URL.
        patience_s: How long one request may stay without a final answer.
    """

    http: httpx.AsyncClient
    patience_s: float = PATIENCE_S
    repeats: int = 0                       # requests that had to be sent again
    server_errors: list[str] = field(default_factory=list)

    async def create_item(
        self, sku: str, *, price: str, available: int, description: str = "", is_stocked: bool = True
    ) -> Answer:
        body = {"sku": sku, "price": price, "available": available, "description": description, "is_stocked": is_stocked}
        return await self.post("/items", body, key=f"item-{quote(sku)}")

    async def open_account(self, account_id: str, *, holder: str, balance: str, is_guest: bool = False) -> Answer:
        body = {"account_id": account_id, "holder": holder, "balance": balance, "is_guest": is_guest}
        return await self.post("/accounts", body, key=f"account-{account_id}")

    async def import_items(self, items: Sequence[Mapping[str, Any]]) -> Answer:
        """Several hundred at a time, all or none."""
        return await self.post("/item-imports", {"items": list(items)}, key=f"items-from-{quote(items[0]['sku'])}")

    async def import_accounts(self, accounts: Sequence[Mapping[str, Any]]) -> Answer:
        """Several hundred at a time, all or none."""
        return await self.post("/account-imports", {"accounts": list(accounts)}, key=f"accounts-from-{accounts[0]['account_id']}")

    async def place_order(
        self, order_id: str, account_id: str, lines: Sequence[Mapping[str, Any]], *, country: str = "United Kingdom"
    ) -> Answer:
        body = {"order_id": order_id, "account_id": account_id, "country": country, "lines": list(lines)}
        return await self.post("/orders", body, key=f"order-{order_id}")

    async def refund(self, order_id: str, refund_id: str, lines: Sequence[Mapping[str, int]] = ()) -> Answer:
        body = {"refund_id": refund_id, "lines": list(lines)}
        return await self.post(f"/orders/{order_id}/refunds", body, key=f"refund-{refund_id}")

    async def correct_stock(self, sku: str, quantity: int, *, reason: str, key: str) -> Answer:
        return await self.post(f"/items/{quote(sku)}/corrections", {"quantity": quantity, "reason": reason}, key=f"correction-{key}")

    async def get(self, path: str) -> Answer:
        """Read; repeated while the services are away."""
        return await self._until_final("GET", path, None, {})

    async def post(self, path: str, body: Mapping[str, Any], *, key: str | None = None) -> Answer:
        """Ask for a change, once, however often it has to be sent."""
        return await self._until_final("POST", path, body, {"Idempotency-Key": key or uuid4().hex})

    async def _until_final(self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]) -> Answer:
        began, tries = time.monotonic(), 0
        operation: str | None = None
        while True:
            tries += 1
            self.repeats += tries > 1
            wait_s, last = PAUSE_S, ""
            try:
                if operation is not None:
                    response = await self.http.get(operation)
                else:
                    response = await self.http.request(method, path, json=body, headers=dict(headers))
            except httpx.TransportError as error:
                last = repr(error)
            else:
                wait_s, last = _pause(response), f"{response.status_code} {response.text[:200]}"
                answer = self._final(response, time.monotonic() - began, tries, is_operation=operation is not None)
                if answer is not None:
                    return answer
                operation = response.headers.get("Location", operation) if response.status_code in (202, 409) else operation
            if time.monotonic() - began > self.patience_s:
                raise TimeoutError(f"{method} {path} has no final answer after {self.patience_s:g} s: {last}")
            await asyncio.sleep(wait_s)

    def _final(self, response: httpx.Response, seconds: float, tries: int, *, is_operation: bool) -> Answer | None:
        """The answer, if it is one."""
        status = response.status_code
        if status in AGAIN or status == 202:
            return None
        body: Any = response.json() if response.content else {}
        if status == 409 and body.get("code") == "EP805":  # the same key is still running
            return None
        if status >= 500:
            self.server_errors.append(f"{status} {response.text[:300]}")
        if not is_operation or status >= 300:
            return Answer(status, body, seconds, tries)
        if body.get("status") == "running":
            return None
        if body.get("status") == "done":
            return Answer(201, body.get("result") or {}, seconds, tries)
        problem = body.get("problem") or body
        return Answer(int(problem.get("status", 409)) if isinstance(problem.get("status"), int) else 409, problem, seconds, tries)


def _pause(response: httpx.Response) -> float:
    try:
        return min(float(response.headers.get("Retry-After", PAUSE_S)), 1.0)
    except ValueError:
        return PAUSE_S
