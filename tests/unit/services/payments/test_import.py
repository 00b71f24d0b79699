"""Importing accounts: many in one request, all of them or none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal

import pytest

from eventplat import Rejected
from eventplat.testing.harness import Harness
from services.payments.messages import GetAccount, ImportAccounts, OpenAccount, ReadLedger
from services.payments.service import payments


def new(account_id: str, balance: str = "0") -> OpenAccount:
    return OpenAccount(account_id=account_id, holder=account_id, balance=Decimal(balance))


def run(test: Callable[[Harness], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with Harness(payments) as harness:
            await test(harness)

    asyncio.run(whole())


def test_all_are_opened_and_the_balances_agree_with_the_entries() -> None:
    async def test(harness: Harness) -> None:
        imported = await harness.ask(ImportAccounts(accounts=(new("B", "2.50"), new("A", "0.125"), new("C"))))

        assert imported.accounts == 3
        assert (await harness.ask(GetAccount(account_id="B"))).balance == Decimal("2.50")
        ledger = await harness.ask(ReadLedger())
        assert (ledger.accounts, ledger.balances, ledger.deposited, ledger.disagreeing) == (3, Decimal("2.625"), Decimal("2.625"), ())

    run(test)


@pytest.mark.parametrize(
    ("accounts", "reason", "facts"),
    [
        ((new("A"), new("THERE", "1")), "accounts_exist", {"account_ids": ["THERE"], "count": 1}),
        ((new("A"), new("B"), new("A", "1")), "account_twice", {"account_ids": ["A"], "count": 1}),
    ],
    ids=["there already", "twice"],
)
def test_one_that_cannot_be_opened_keeps_all_closed(accounts: tuple[OpenAccount, ...], reason: str, facts: dict[str, object]) -> None:
    async def test(harness: Harness) -> None:
        await harness.ask(new("THERE", "2"))
        with pytest.raises(Rejected) as rejected:
            await harness.ask(ImportAccounts(accounts=accounts))

        assert (rejected.value.reason, rejected.value.facts) == (reason, facts)
        ledger = await harness.ask(ReadLedger())
        assert (ledger.accounts, ledger.balances) == (1, Decimal(2))

    run(test)
