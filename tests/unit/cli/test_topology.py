"""`eventplat topology apply`: says what it declares, and declares it."""

from __future__ import annotations

from pathlib import Path

from tests.unit.cli.terminal import Terminal

EXPECTED = """\
exchange  eventplat.events  topic
exchange  eventplat.commands  topic
exchange  eventplat.queries  topic
exchange  eventplat.replies  direct
exchange  eventplat.replay  direct
exchange  eventplat.dead  direct
exchange  eventplat.registry  fanout
queue     eventplat.shop.dead  quorum
            eventplat.dead  shop
queue     eventplat.shop.operation  classic
            eventplat.queries  shop.operation.v1.one
queue     eventplat.shop.place  quorum
            eventplat.commands  shop.*.place.v1.*
queue     eventplat.shop.count  classic
            eventplat.queries  shop.count.v1.one
queue     eventplat.shop.on-placed  quorum
            eventplat.events  *.order.placed.v1.*
"""


def test_a_dry_run_prints_what_would_be_declared_and_touches_nothing(terminal: Terminal, app: str, tmp_path: Path) -> None:
    said = terminal.type("topology", "apply", "--dry-run", app)

    assert (said.code, said.err) == (0, "")
    assert said.out == f"{EXPECTED}7 exchanges and 5 queues would be there\n"
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["app.py"]


def test_it_declares_what_it_prints_and_may_be_run_again(terminal: Terminal, app: str, tmp_path: Path) -> None:
    first = terminal.type("topology", "apply", app)
    second = terminal.type("topology", "apply", app)

    assert (first.code, first.err) == (0, "")
    assert first.out == f"{EXPECTED}7 exchanges and 5 queues are there\n"
    assert second == first
    assert (tmp_path / ".eventplat" / "broker.db").exists()
