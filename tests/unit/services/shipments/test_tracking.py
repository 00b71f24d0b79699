"""Tracking: numbers and the ways of a status."""

from __future__ import annotations

import pytest

from services.shipments.tracking import may_become, tracking_number


def test_an_order_has_one_tracking_number_and_two_orders_have_two() -> None:
    numbers = {tracking_number(f"o-{n}") for n in range(1_000)}

    assert len(numbers) == 1_000
    assert tracking_number("o-1") == tracking_number("o-1")
    assert all(len(number) == 16 and number.startswith("EP") and number[2:].isdigit() for number in numbers)


@pytest.mark.parametrize(
    ("status", "wanted", "allowed"),
    [
        ("arranged", "dispatched", True),
        ("arranged", "recalled", True),
        ("dispatched", "delivered", True),
        ("dispatched", "recalled", False),
        ("arranged", "delivered", False),
        ("delivered", "dispatched", False),
        ("recalled", "dispatched", False),
    ],
)
def test_a_shipment_only_goes_forward_and_is_recalled_only_before_it_left(status: str, wanted: str, allowed: bool) -> None:
    assert may_become(status, wanted) is allowed
