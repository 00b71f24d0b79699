"""Messages of shipments: arrange, scan, track.

Next: shipments.service
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from eventplat import Command, Event, Key, Query
from services.kernel.names import LINES_MAX, QUANTITY_MAX, Country, OrderId

Place = Annotated[str, Field(min_length=1, max_length=80)]
Status = Literal["arranged", "dispatched", "delivered", "recalled"]


class Scan(BaseModel):
    """Where a shipment was seen."""

    at: datetime
    status: Status
    place: str


class Shipment(BaseModel):
    """A shipment and where it has been."""

    order_id: OrderId
    tracking: str
    country: Country
    units: int
    status: Status
    scans: tuple[Scan, ...]


class ArrangeShipment(Command[Shipment], name="shipments.arrange-shipment"):
    """Send the goods of an order to their country."""

    order_id: Key[OrderId]
    country: Country
    units: Annotated[int, Field(ge=1, le=QUANTITY_MAX * LINES_MAX)]


class ScanShipment(Command[Shipment], name="shipments.scan-shipment"):
    """The carrier has seen it."""

    order_id: Key[OrderId]
    status: Literal["dispatched", "delivered"]
    place: Place


class TrackShipment(Query[Shipment], name="shipments.track-shipment"):
    """Where is it?"""

    order_id: Key[OrderId]


class ShipmentMoved(Event, name="shipments.shipment-moved"):
    """A shipment was arranged, dispatched, delivered or recalled."""

    order_id: Key[OrderId]
    tracking: str
    status: Status
