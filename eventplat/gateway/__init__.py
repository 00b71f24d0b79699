"""HTTP in, messages out, answers back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventplat.door import opened

if TYPE_CHECKING:
    from eventplat.gateway.app import create_app

__all__ = ["create_app"]

_HOME = {"create_app": "app"}

__getattr__, __dir__ = opened(__name__, _HOME)
