"""Leases, leadership and fencing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventplat.door import opened

if TYPE_CHECKING:
    from eventplat.coordination.lease import Leases, fence

__all__ = ["Leases", "fence"]

_HOME = {"Leases": "lease", "fence": "lease"}

__getattr__, __dir__ = opened(__name__, _HOME)
