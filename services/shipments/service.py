"""Shipments: arranged by the checkout, scanned by the carrier, recalled when the whole order is refunded in time."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, insert, select, update

from eventplat import Context, Rejected, Route, Service
from services.orders.messages import OrderRefunded
from services.shipments.messages import ArrangeShipment, Scan, ScanShipment, Shipment, ShipmentMoved, TrackShipment
from services.shipments.tables import metadata, scan, shipment
from services.shipments.tracking import may_become, tracking_number

shipments: Service[None] = Service("shipments", tables=metadata)


@shipments.handles(ArrangeShipment, requires="shipments:arrange")
async def arrange(command: ArrangeShipment, ctx: Context[None]) -> Shipment:
    """Send the goods of an order to their country."""
    row = {**command.model_dump(), "tracking": tracking_number(command.order_id), "status": "arranged"}
    await ctx.db.execute(insert(shipment).values(row))
    await _seen(ctx, command.order_id, "arranged", "warehouse")
    return await _read(ctx, command.order_id)


@shipments.handles(ScanShipment, http=Route("POST /shipments/{order_id}/scans", status=201), requires="shipments:write")
async def record_scan(command: ScanShipment, ctx: Context[None]) -> Shipment:
    """Record that the carrier has seen it."""
    found = await _find(ctx, command.order_id, lock=True)
    if found is None:
        raise Rejected("unknown_shipment", status=404, order_id=command.order_id)
    if not may_become(found.status, command.status):
        raise Rejected("wrong_way", order_id=command.order_id, status=found.status, wanted=command.status)
    await _seen(ctx, command.order_id, command.status, command.place)
    return await _read(ctx, command.order_id)


@shipments.handles(TrackShipment, http="GET /shipments/{order_id}", requires="shipments:read")
async def track(query: TrackShipment, ctx: Context[None]) -> Shipment:
    """Read a shipment and where it has been."""
    return await _read(ctx, query.order_id)


@shipments.on(OrderRefunded)
async def recall(event: OrderRefunded, ctx: Context[None]) -> None:
    """Keep back what has not left yet, once nothing of the order remains sold."""
    found = await _find(ctx, event.order_id, lock=True)
    if event.is_all and found is not None and may_become(found.status, "recalled"):
        await _seen(ctx, event.order_id, "recalled", "warehouse")


async def _find(ctx: Context[None], order_id: str, *, lock: bool) -> Row[Any] | None:
    query = select(shipment).where(shipment.c.order_id == order_id)
    return (await ctx.db.execute(query.with_for_update() if lock else query)).one_or_none()


async def _seen(ctx: Context[None], order_id: str, status: str, place: str) -> None:
    await ctx.db.execute(update(shipment).where(shipment.c.order_id == order_id).values(status=status))
    await ctx.db.execute(insert(scan).values(order_id=order_id, status=status, place=place, at=ctx.now))
    ctx.publish(ShipmentMoved.model_validate({"order_id": order_id, "tracking": tracking_number(order_id), "status": status}))


async def _read(ctx: Context[None], order_id: str) -> Shipment:
    found = await _find(ctx, order_id, lock=False)
    if found is None:
        raise Rejected("unknown_shipment", status=404, order_id=order_id)
    rows = await ctx.db.execute(select(scan).where(scan.c.order_id == order_id).order_by(scan.c.scan_id))
    scans = tuple(Scan(at=row.at, status=row.status, place=row.place) for row in rows)
    return Shipment(
        order_id=order_id, tracking=found.tracking, country=found.country, units=found.units, status=found.status, scans=scans
    )
