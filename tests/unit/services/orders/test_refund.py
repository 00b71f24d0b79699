"""Refund: forward only once the quantities are claimed."""

from __future__ import annotations

import json
from typing import Any

from services.orders.messages import RefundLine, RefundOrder
from services.orders.refund import refund
from tests.unit.services.sagas import play, refused

ORDER = RefundOrder(order_id="o-1", refund_id="r-1", lines=(RefundLine(line=1, quantity=2),))
ANSWERS: dict[str, Any] = {
    "orders.open-refund": {"account_id": "a-1", "amount": "6.78", "lines": [{"sku": "LANTERN", "quantity": 2}], "is_all": False},
    "payments.refund-payment": {"refund_id": "r-1", "amount": "6.78"},
}


def test_a_refund_gives_back_money_and_goods_and_tells_it() -> None:
    did, decision = play(refund, ORDER, ANSWERS)

    assert did == [
        "orders.open-refund", "pivot", "payments.refund-payment", "stock.return-items", "orders.complete-refund",
        "publish orders.order-refunded",
    ]  # fmt: skip
    assert json.loads(decision.outcome) == {"order_id": "o-1", "refund_id": "r-1", "amount": "6.78"}


def test_a_refund_of_more_than_is_left_moves_neither_money_nor_goods() -> None:
    did, decision = play(refund, ORDER, {**ANSWERS, "orders.open-refund": refused("more_than_left")})

    assert did == ["orders.open-refund"]
    assert decision.status == "compensated"


def test_a_refund_that_goes_wrong_half_way_waits_for_an_operator_with_its_claim_standing() -> None:
    did, decision = play(refund, ORDER, {**ANSWERS, "stock.return-items": refused("never_taken")})

    assert decision.status == "operator"
    assert "undo orders.drop-refund" not in did
