"""Tracking: a parcel's number, and the ways its status may go. Pure."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

NEXT: Final[dict[str, frozenset[str]]] = {
    "arranged": frozenset({"dispatched", "recalled"}),
    "dispatched": frozenset({"delivered"}),
    "delivered": frozenset(),
    "recalled": frozenset(),
}


def tracking_number(order_id: str) -> str:
    """The tracking number of an order: two letters and 14 digits, always the same for the same order."""
    digest = blake2b(order_id.encode(), digest_size=8).digest()
    return f"EP{int.from_bytes(digest, 'big') % 10**14:014d}"


def may_become(status: str, wanted: str) -> bool:
    """Whether a shipment may go from `status` to `wanted`."""
    return wanted in NEXT[status]
