"""The public door: complete, and light."""

from __future__ import annotations

import subprocess
import sys

import pytest

import eventplat

_LIGHT = """
import sys
from eventplat import Command, Event, Key, Query, Rejected
heavy = {"sqlalchemy", "pika", "kombu", "fastapi", "asyncio"} & set(sys.modules)
assert not heavy, heavy
"""


def test_every_public_name_has_a_home_and_every_home_a_public_name() -> None:
    assert set(eventplat.__all__) == set(eventplat._HOME)
    assert eventplat.__all__ == sorted(eventplat.__all__)


def test_declaring_messages_loads_neither_a_broker_nor_a_database() -> None:
    ended = subprocess.run([sys.executable, "-c", _LIGHT], capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 0, ended.stderr


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = eventplat.Nonsense
