"""The public doors: complete, and light."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import eventplat

HEAVY = {"sqlalchemy", "pika", "kombu", "fastapi", "asyncio"}
_LIGHT = """
import sys
from eventplat import Command, Duration, Envelope, Event, Key, Principal, Query, Rejected
import eventplat.coordination, eventplat.gateway, eventplat.storage, eventplat.testing
heavy = {heavy} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.fixture(params=["eventplat", "eventplat.testing", "eventplat.gateway", "eventplat.storage"])
def door(request: pytest.FixtureRequest) -> ModuleType:
    return import_module(request.param)


def test_every_public_name_has_a_home_and_every_home_a_public_name(door: ModuleType) -> None:
    assert set(door.__all__) == set(door._HOME)
    assert door.__all__ == sorted(door.__all__)


def test_every_public_name_is_found_through_its_door_and_listed(door: ModuleType) -> None:
    for name, home in door._HOME.items():
        assert getattr(door, name) is getattr(import_module(f"{door.__name__}.{home}"), name)
    assert set(door.__all__) <= set(dir(door))


def test_a_type_checker_reads_the_same_names_as_python(door: ModuleType) -> None:
    tree = ast.parse(Path(door.__file__ or "").read_text())
    imported = {
        (alias.name, node.module)
        for block in tree.body if isinstance(block, ast.If)
        for node in block.body if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }  # fmt: skip

    assert imported == {(name, f"{door.__name__}.{home}") for name, home in door._HOME.items()}


def test_the_doors_hold_what_the_public_api_promises() -> None:
    from eventplat import Duration, Envelope, Middleware, Next, Principal, Transaction  # noqa: PLC0415
    from eventplat.gateway import create_app  # noqa: PLC0415
    from eventplat.storage import Database  # noqa: PLC0415
    from eventplat.testing import Harness  # noqa: PLC0415

    assert all((Duration, Envelope, Middleware, Next, Principal, Transaction, create_app, Database, Harness))


def test_declaring_messages_loads_neither_a_broker_nor_a_database() -> None:
    light = _LIGHT.format(heavy=HEAVY)
    ended = subprocess.run([sys.executable, "-c", light], capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 0, ended.stderr


def test_a_name_that_is_not_public_is_an_attribute_error(door: ModuleType) -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = door.Nonsense


def test_a_door_does_not_hide_its_rooms() -> None:
    assert import_module("eventplat.errors").Rejected is eventplat.Rejected
