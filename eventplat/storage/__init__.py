"""Databases: engines, transactions, the platform's migrations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventplat.door import opened

if TYPE_CHECKING:
    from eventplat.storage.database import Database

__all__ = ["Database"]

_HOME = {"Database": "database"}

__getattr__, __dir__ = opened(__name__, _HOME)
