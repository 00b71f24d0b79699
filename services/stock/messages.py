"""Messages of stock: items, reservations, returns, corrections.

Next: stock.service
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from eventplat import Command, Event, Key, Query
from services.kernel.money import Amount
from services.kernel.names import IMPORT_MAX, LINES_MAX, QUANTITY_MAX, Change, OrderId, Sku

Description = Annotated[str, Field(max_length=200)]
Reason = Annotated[str, Field(min_length=1, max_length=200)]


class StockLine(BaseModel):
    """So many of one item."""

    model_config = ConfigDict(frozen=True)

    sku: Sku
    quantity: Annotated[int, Field(ge=1, le=QUANTITY_MAX * LINES_MAX)]  # lines of one item arrive merged


StockLines = Annotated[tuple[StockLine, ...], Field(min_length=1, max_length=LINES_MAX)]


class Item(BaseModel):
    """An item as it stands."""

    sku: Sku
    description: Description
    price: Amount
    is_stocked: bool
    available: int


class ImportedItems(BaseModel):
    """How many items were taken into the range."""

    items: int


class Reservation(BaseModel):
    """What was put aside for an order."""

    order_id: OrderId
    units: int  # of stocked items: what there is to ship


class Stocktake(BaseModel):
    """Whether the shelves agree with the book of movements."""

    items: int
    available: int
    moved: int
    disagreeing: tuple[Sku, ...]  # the first twenty


class CreateItem(Command[Item], name="stock.create-item"):
    """Take an item into the range. Services (postage, bank charges) are sold without stock."""

    sku: Key[Sku]
    description: Description = ""
    price: Amount  # today's list price; an order's own price stands
    is_stocked: bool = True
    available: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0


class ImportItems(Command[ImportedItems], name="stock.import-items"):
    """Take many items into the range, all or none."""

    items: Annotated[tuple[CreateItem, ...], Field(min_length=1, max_length=IMPORT_MAX)]


class CorrectStock(Command[Item], name="stock.correct-stock"):
    """Deliveries, damages, write-offs: `quantity` is added, so a loss is negative."""

    sku: Key[Sku]
    quantity: Change
    reason: Reason


class ReserveStock(Command[Reservation], name="stock.reserve-stock"):
    """Put all lines aside for an order, or none."""

    order_id: Key[OrderId]
    lines: StockLines


class ReleaseStock(Command[None], name="stock.release-stock"):
    """Undoes ReserveStock: whatever the order still holds goes back."""

    order_id: Key[OrderId]


class ReturnItems(Command[None], name="stock.return-items"):
    """Put refunded goods back on the shelf, at most what the order took."""

    order_id: Key[OrderId]
    lines: StockLines


class GetItem(Query[Item], name="stock.get-item"):
    """One item."""

    sku: Key[Sku]


class TakeStock(Query[Stocktake], name="stock.take-stock"):
    """Compare every shelf with its movements."""


class StockCorrected(Event, name="stock.stock-corrected"):
    """A shelf was corrected by hand."""

    sku: Key[Sku]
    quantity: int
    reason: Reason
