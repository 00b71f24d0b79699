"""Money: exact, bounded, and read back as it was written."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from services.kernel.money import AMOUNT_MAX, Amount, Total, amount, from_thousandths, text, thousandths

AMOUNTS = st.integers(min_value=0, max_value=999_999_999_999).map(from_thousandths)


class Price(BaseModel):
    price: Amount


@given(AMOUNTS)
def test_an_amount_comes_back_exactly_as_it_was_sent(value: Decimal) -> None:
    assert Price.model_validate_json(Price(price=value).model_dump_json()).price == value


@given(AMOUNTS)
def test_thousandths_lose_nothing(value: Decimal) -> None:
    assert from_thousandths(thousandths(value)) == value


@pytest.mark.parametrize(
    ("value", "written"), [("2.5", "2.50"), ("2.550", "2.55"), ("0.125", "0.125"), ("7", "7.00"), ("13541.33", "13541.33")]
)
def test_an_amount_is_written_with_two_decimals_or_with_three_where_they_matter(value: str, written: str) -> None:
    assert text(Decimal(value)) == written


@pytest.mark.parametrize(
    "given_", [2.55, 2, True, None, "", "-1", "+1", "1e3", "1.2345", "1,5", " 1", "1\n", "NaN", "1234567890", "\u0663", Decimal(-1)]
)
def test_what_is_no_decimal_text_is_refused(given_: object) -> None:
    with pytest.raises(ValueError, match="no amount of money"):
        amount(given_)


def test_a_json_number_is_refused_because_readers_take_it_for_a_float() -> None:
    with pytest.raises(ValidationError):
        Price.model_validate_json('{"price": 2.55}')


def test_money_finer_than_a_thousandth_is_refused_and_never_rounded() -> None:
    with pytest.raises(ValueError, match="finer"):
        thousandths(Decimal("0.0005"))


def test_the_schema_that_the_gateway_checks_is_the_pattern_that_the_class_checks() -> None:
    schema = Price.model_json_schema()["properties"]["price"]

    assert schema["type"] == "string"
    assert amount(text(AMOUNT_MAX)) == AMOUNT_MAX
    assert schema["pattern"] == r"^[0-9]{1,9}(\.[0-9]{1,3})?$"


def test_a_total_may_be_negative_and_larger_than_an_amount() -> None:
    class Sum(BaseModel):
        sum: Total

    assert Sum(sum=Decimal("-12345678901.5")).model_dump_json() == '{"sum":"-12345678901.50"}'
