"""Money: exact amounts in thousandths of a pound. Pure.

On the wire   decimal text, "2.50" or "0.125": JSON numbers are binary floats to most readers.
In Python     Decimal; no float gets in.
In tables     BIGINT thousandths (`kernel.columns.Thousandths`): sums are exact in every database.

Wholesale prices have up to three decimals, so a penny is too coarse a unit for a line; nothing here ever rounds.

Next: kernel.columns
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

AMOUNT_MAX = Decimal("999999999.999")
AMOUNT_PATTERN = r"^[0-9]{1,9}(\.[0-9]{1,3})?$"

_AMOUNT = re.compile(AMOUNT_PATTERN)


def amount(given: object) -> Decimal:
    """`given` as an amount of 0 to `AMOUNT_MAX` pounds, from text or a Decimal.

    Raises:
        ValueError: Anything else: a float or int, a sign, an exponent, more than nine digits or three decimals.
    """
    written = f"{given:f}" if isinstance(given, Decimal) else given
    if not isinstance(written, str) or not _AMOUNT.fullmatch(written):
        raise ValueError(f"{given!r} is no amount of money. Write decimal text with at most three decimals, as '2.55'")
    return Decimal(written)


def text(value: Decimal) -> str:
    """`value` pounds with two decimals, with three where they matter: "2.50", "0.125"."""
    return f"{from_thousandths(thousandths(value)):.3f}".removesuffix("0")


def thousandths(value: Decimal) -> int:
    """`value` pounds in thousandths.

    Raises:
        ValueError: It is finer than a thousandth: money is never rounded.
    """
    scaled = value.scaleb(3)
    if scaled != (whole := int(scaled)):
        raise ValueError(f"{value} pounds is finer than a thousandth")
    return whole


def from_thousandths(value: int) -> Decimal:
    """`value` thousandths in pounds."""
    return Decimal(value).scaleb(-3)


def _schema(pattern: str, example: str, **more: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "maxLength": 24, "examples": [example], **more})


def _more_than_nothing(value: Decimal) -> Decimal:
    if not value:
        raise ValueError("it is zero")
    return value


def _total(given: Any) -> Decimal:
    return given if isinstance(given, Decimal) else Decimal(str(given))


_TEXT = PlainSerializer(text, when_used="json")

Amount: TypeAlias = Annotated[Decimal, BeforeValidator(amount), _TEXT, _schema(AMOUNT_PATTERN, "2.55")]
"""What a message carries: 0 to 999,999,999.999 pounds."""

_PAYMENT = _schema(AMOUNT_PATTERN, "2.55", **{"not": {"pattern": "^[0.]*$"}})

Payment: TypeAlias = Annotated[Decimal, BeforeValidator(amount), AfterValidator(_more_than_nothing), _TEXT, _PAYMENT]
"""What somebody pays: an amount that is not zero."""

TOTAL_PATTERN = r"^-?[0-9]{1,18}\.[0-9]{2,3}$"
Total: TypeAlias = Annotated[Decimal, BeforeValidator(_total), _TEXT, _schema(TOTAL_PATTERN, "748957.02")]
"""What an answer carries: a balance or a sum, of either sign."""
