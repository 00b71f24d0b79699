"""Names: what things are called on the wire, each bounded, so that the gateway refuses the rest by schema. Pure.

The shared kernel holds only what several services must spell the same way: a stock code is the same
text in an order, in a reservation and in a URL.

Source: Evans, Domain-Driven Design (2003), chapter 14: shared kernel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, TypeAlias

from pydantic import Field

LINES_MAX = 1_000
IMPORT_MAX = 500         # of what one request takes in
QUANTITY_MAX = 1_000_000

OrderId: TypeAlias = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
RefundId: TypeAlias = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
AccountId: TypeAlias = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]

Sku: TypeAlias = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[A-Za-z0-9]([A-Za-z0-9 ._-]*[A-Za-z0-9])?$")]
"""A stock code. Case matters: 85123A and 85123a are two items. "BANK CHARGES" is one as well."""

Quantity: TypeAlias = Annotated[int, Field(ge=1, le=QUANTITY_MAX)]
Change: TypeAlias = Quantity | Annotated[int, Field(ge=-QUANTITY_MAX, le=-1)]
"""What is added, or with a minus taken away: never nothing."""

Country: TypeAlias = Annotated[str, Field(min_length=1, max_length=60)]


def repeated(names: Sequence[str]) -> list[str]:
    """Those that come more than once, sorted."""
    return sorted(name for name, count in Counter(names).items() if count > 1)
