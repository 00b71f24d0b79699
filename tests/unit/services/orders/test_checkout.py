"""Checkout: what follows on every ending of every step."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from services.orders.checkout import checkout
from services.orders.messages import OrderLine, PlaceOrder
from tests.unit.services.sagas import play, refused

ORDER = PlaceOrder(
    order_id="o-1",
    account_id="a-1",
    lines=(
        OrderLine(sku="LANTERN", quantity=6, unit_price=Decimal("3.39")),
        OrderLine(sku="HEART", quantity=1, unit_price=Decimal("0.125")),
        OrderLine(sku="LANTERN", quantity=1, unit_price=Decimal("2.95")),
    ),
)
SHIPMENT = {"order_id": "o-1", "tracking": "EP1", "country": "United Kingdom", "units": 8, "status": "arranged", "scans": []}
ANSWERS: dict[str, Any] = {
    "orders.open-order": {"total": "23.415"},
    "stock.reserve-stock": {"order_id": "o-1", "units": 8},
    "payments.charge-payment": {"charge_id": 7, "order_id": "o-1", "amount": "23.415"},
    "shipments.arrange-shipment": SHIPMENT,
}


def test_an_order_is_reserved_charged_shipped_and_told() -> None:
    did, decision = play(checkout, ORDER, ANSWERS)

    assert did == [
        "orders.open-order", "stock.reserve-stock", "payments.charge-payment", "pivot",
        "orders.mark-paid", "shipments.arrange-shipment", "orders.complete-order", "publish orders.order-placed",
    ]  # fmt: skip
    assert decision.status == "completed"
    assert json.loads(decision.outcome) == {
        "order_id": "o-1", "status": "completed", "total": "23.415", "charge_id": 7, "tracking": "EP1",
    }  # fmt: skip


@pytest.mark.parametrize("ending", [refused("insufficient_funds"), ("failed", None), ("void", None)])
def test_a_payment_that_did_not_happen_gives_the_stock_back_before_the_client_is_answered(ending: Any) -> None:
    did, decision = play(checkout, ORDER, {**ANSWERS, "payments.charge-payment": ending})

    assert did[-3:] == ["orders.explain-refusal", "undo stock.release-stock", "undo orders.refuse-order"]
    assert decision.status == "compensated"


def test_the_client_reads_why_its_payment_was_refused() -> None:
    _, decision = play(checkout, ORDER, {**ANSWERS, "payments.charge-payment": refused("insufficient_funds")})

    assert json.loads(decision.outcome)["reason"] == "insufficient_funds"


def test_a_payment_that_may_have_happened_is_refunded_first() -> None:
    did, decision = play(checkout, ORDER, {**ANSWERS, "payments.charge-payment": ("timed_out", None)})

    assert [name for name in did if name.startswith("undo")] == [
        "undo payments.refund-charge", "undo stock.release-stock", "undo orders.refuse-order",
    ]  # fmt: skip
    assert decision.status == "compensated"


def test_stock_that_is_short_charges_nobody() -> None:
    did, decision = play(checkout, ORDER, {**ANSWERS, "stock.reserve-stock": refused("out_of_stock")})

    assert did == ["orders.open-order", "stock.reserve-stock", "orders.explain-refusal", "undo orders.refuse-order"]
    assert decision.status == "compensated"


def test_an_order_that_cannot_be_opened_leaves_nothing_to_undo() -> None:
    did, decision = play(checkout, ORDER, {**ANSWERS, "orders.open-order": refused("total_too_large")})

    assert did == ["orders.open-order"]
    assert decision.status == "compensated"


def test_a_paid_order_whose_shipment_is_refused_waits_for_an_operator_and_undoes_nothing() -> None:
    did, decision = play(checkout, ORDER, {**ANSWERS, "shipments.arrange-shipment": refused("no_carrier")})

    assert decision.status == "operator"
    assert not [name for name in did if name.startswith("undo")]


def test_an_order_of_services_alone_ships_nothing() -> None:
    did, decision = play(checkout, ORDER, {**ANSWERS, "stock.reserve-stock": {"order_id": "o-1", "units": 0}})

    assert "shipments.arrange-shipment" not in did
    assert json.loads(decision.outcome)["tracking"] is None


def test_an_order_of_a_thousand_lines_is_one_reservation_below_the_size_of_a_message() -> None:
    lines = tuple(OrderLine(sku=f"GIFT-{n:035d}", quantity=1_000_000, unit_price=Decimal("999999.999")) for n in range(1_000))
    order = ORDER.model_copy(update={"lines": lines})

    did, decision = play(checkout, order, ANSWERS)

    assert len(order.to_bytes()) < 262_144  # settings.body_bytes_max
    assert did.count("stock.reserve-stock") == 1
    assert decision.status == "completed"
