"""A day in the shop: what clients were told is what the databases say, by an independent count."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.demo import day, retail
from services.demo.generate import generate
from services.demo.main import Options, main
from tests.e2e.shops import KINDS, Open, opened, retail_file
from tests.faults.books import audit
from tests.faults.crash import wait_until_at_rest
from tests.faults.stack import Kind

CUSTOMERS = 1_000
UNITS = 100
TRIES_A_UNIT = 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_day_of_orders_leaves_the_books_as_the_clients_were_told(kind: Kind, tmp_path: Path) -> None:
    async def trade() -> None:
        async with opened(kind, tmp_path) as open_:
            plan = generate(60, seed=7)
            await day.open_shop(open_.shop, plan)
            told = await day.trade(open_.shop, plan)

            assert told.counts()["completed"] > 15
            assert told.counts()["refused"] > 5
            assert told.counts()["refunded"] > 0
            await wait_until_at_rest(open_.fetch)
            assert audit(open_.fetch, {id_: answer.is_accepted for id_, answer in told.orders.items()}) == []
            assert open_.shop.server_errors == []

    asyncio.run(trade())


def test_the_demo_says_that_every_check_holds(capsys: pytest.CaptureFixture[str]) -> None:
    from eventplat.service.load import discover  # noqa: PLC0415 - the services are loaded only here

    holds = asyncio.run(main(discover(), Options(count=60, seed=3)))

    assert holds, capsys.readouterr().out


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["embedded", pytest.param("local", marks=pytest.mark.alone)])
def test_every_line_of_a_real_month_is_accepted_or_rejected_and_the_totals_are_the_files_own(kind: Kind, tmp_path: Path) -> None:
    lines = retail.read(retail_file())

    async def feed() -> day.MonthTold:
        async with opened(kind, tmp_path) as open_:
            month = retail.plan(lines)
            await day.open_wholesaler(open_.shop, month)
            result = await day.feed(open_.shop, month)
            await wait_until_at_rest(open_.fetch)
            assert audit(open_.fetch, {id_: answer.is_accepted for id_, answer in result.told.orders.items()}) == []
            sold = open_.fetch("orders", "SELECT SUM((quantity - refunded) * unit_price) FROM order_line")[0][0]
            assert int(sold) == int((result.money_of["orders"] + result.money_of["refunds"]) * 1_000)
            return result

    result = asyncio.run(feed())

    file = day.Ledger()
    file.add(lines)
    assert (file.lines, file.quantity, str(file.money)) == (42_481, 342_228, "748957.02")
    assert result.accepted.lines + result.rejected.lines == file.lines
    assert result.accepted.quantity + result.rejected.quantity == file.quantity
    assert result.accepted.money + result.rejected.money == file.money
    assert result.money_of["orders"] + result.money_of["refunds"] == result.accepted.money
    # the same on both kinds: exactly the cancellations of what nobody bought this month
    assert dict(result.reasons) == {"no_earlier_purchase": 439}
    assert result.rejected.quantity == -12_846


@pytest.mark.alone
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_customers_for_a_hundred_units_buy_exactly_a_hundred(kind: Kind, tmp_path: Path) -> None:
    async def rush() -> None:
        async with opened(kind, tmp_path) as open_:
            await _stock_up(open_)
            told: dict[str, bool] = {}
            waiting = list(range(CUSTOMERS))
            waiting = await _all_at_once(open_, waiting, 0, told)
            for attempt in range(1, 10):  # units held by who cannot pay have come back: some of the others try again
                left = (await open_.shop.get("/items/LAST")).body["available"]
                if left == 0:
                    break
                again, later = waiting[: left * TRIES_A_UNIT], waiting[left * TRIES_A_UNIT :]
                waiting = await _all_at_once(open_, again, attempt, told) + later

            # at once when the last answer has arrived: no waiting here
            assert sum(told.values()) == UNITS
            assert open_.fetch("stock", "SELECT available FROM item WHERE sku = 'LAST'")[0][0] == 0
            on_its_way = ("wait to be sent", "not settled", "have no letter")
            wrong = [each for each in audit(open_.fetch, told) if not any(what in each for what in on_its_way)]
            assert wrong == []
            assert open_.shop.server_errors == []

    asyncio.run(rush())


async def _stock_up(open_: Open) -> None:
    created = await open_.shop.create_item("LAST", price="10.00", available=UNITS)
    assert created.is_accepted
    accounts = [{"account_id": f"A{n}", "holder": f"A{n}", "balance": "0.00" if n % 4 == 0 else "50.00"} for n in range(CUSTOMERS)]
    await day.take_in(open_.shop.import_accounts, accounts)


async def _all_at_once(open_: Open, customers: list[int], attempt: int, told: dict[str, bool]) -> list[int]:
    line = {"sku": "LAST", "quantity": 1, "unit_price": "10.00"}
    answers = await asyncio.gather(*(open_.shop.place_order(f"O{n}-{attempt}", f"A{n}", [line]) for n in customers))
    told |= {f"O{n}-{attempt}": answer.is_accepted for n, answer in zip(customers, answers, strict=True)}
    assert {answer.reason for answer in answers if not answer.is_accepted} <= {"out_of_stock", "insufficient_funds"}
    return [n for n, answer in zip(customers, answers, strict=True) if answer.reason == "out_of_stock"]
