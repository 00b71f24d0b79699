"""What a user's tests need: the harness and its clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventplat.door import opened

if TYPE_CHECKING:
    from eventplat.testing.harness import Harness, NotQuiet
    from eventplat.testing.virtual_clock import VirtualClock

__all__ = ["Harness", "NotQuiet", "VirtualClock"]

_HOME = {"Harness": "harness", "NotQuiet": "harness", "VirtualClock": "virtual_clock"}

__getattr__, __dir__ = opened(__name__, _HOME)
