"""A terminal in an empty folder, without any setting of ours in its environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cli.terminal import Terminal

SHOP = '''
from eventplat import Command, Event, Key, Query, Service

shop = Service("shop")

class Placed(Event):
    order_id: Key[str]

class Place(Command[None]):
    order_id: Key[str]

class Count(Query[int]):
    pass

@shop.handles(Place)
async def place(command, ctx): ...

@shop.handles(Count)
async def count(query, ctx): ...

@shop.on(Placed)
async def placed(event, ctx): ...
'''


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Terminal]:
    for name in [name for name in os.environ if name.startswith("EVENTPLAT_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)
    yield Terminal(monkeypatch, capsys)
    for name in {"app", "services", "shop"} & (set(sys.modules) - before):
        del sys.modules[name]


@pytest.fixture
def app(tmp_path: Path) -> str:
    """A file with one service, in the terminal's folder."""
    (tmp_path / "app.py").write_text(SHOP)
    return "app.py"
