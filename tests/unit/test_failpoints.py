"""Failpoints: off by default, exact when armed, and never armed by a misspelling."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import eventplat
from eventplat.errors import SettingsError
from eventplat.failpoints import NAMES, InjectedFault, arm, armed, failpoint

HOUSE = Path(str(eventplat.__file__)).parent


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    arm("")
    yield
    arm("")


def test_a_point_does_nothing_unless_armed() -> None:
    assert not armed()
    for name in NAMES:
        failpoint(name)


def test_an_armed_point_fires_the_first_time_only() -> None:
    arm("relay.claimed=raise")

    with pytest.raises(InjectedFault, match=r"relay\.claimed"):
        failpoint("relay.claimed")
    failpoint("relay.claimed")
    failpoint("consumer.received")


def test_a_point_fires_at_the_hit_that_was_asked_for() -> None:
    arm("relay.claimed=raise@3")

    failpoint("relay.claimed")
    failpoint("relay.claimed")
    with pytest.raises(InjectedFault):
        failpoint("relay.claimed")
    failpoint("relay.claimed")


def test_a_star_is_every_hit() -> None:
    arm("relay.claimed=raise@*")

    for _ in range(3):
        with pytest.raises(InjectedFault):
            failpoint("relay.claimed")


def test_several_points_are_armed_at_once() -> None:
    arm(" relay.claimed=raise ; consumer.received=raise@2;")

    failpoint("consumer.received")
    with pytest.raises(InjectedFault, match="received"):
        failpoint("consumer.received")
    with pytest.raises(InjectedFault, match="claimed"):
        failpoint("relay.claimed")


def test_arming_anew_counts_from_the_start() -> None:
    arm("relay.claimed=raise@2")
    failpoint("relay.claimed")
    arm("relay.claimed=raise@2")

    failpoint("relay.claimed")
    with pytest.raises(InjectedFault):
        failpoint("relay.claimed")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense=raise", "'nonsense', which is no failpoint"), ("raise", "'raise', which is no failpoint"),
        ("relay.claimed", "asks for ''"), ("relay.claimed=", "asks for ''"), ("relay.claimed=explode", "'explode'"),
        ("relay.claimed=sleep", "'sleep'"), ("relay.claimed=sleep:", "'sleep:'"), ("relay.claimed=sleep:soon", "'sleep:soon'"),
        ("relay.claimed=sleep:-1", "'sleep:-1'"), ("relay.claimed=kill:5", "'kill:5'"),
        ("relay.claimed=raise@", "hit ''"), ("relay.claimed=raise@0", "hit '0'"), ("relay.claimed=raise@-1", "hit '-1'"),
        ("relay.claimed=raise@x", "hit 'x'"), ("relay.claimed=raise@1.5", "hit '1.5'"), ("relay.claimed=raise@*@1", "hit"),
    ],
)  # fmt: skip
def test_what_would_never_fire_as_meant_is_refused_and_nothing_is_armed(text: str, said: str) -> None:
    with pytest.raises(SettingsError, match="EVENTPLAT_FAILPOINTS") as raised:
        arm(f"consumer.received=raise;{text}")

    assert said in str(raised.value)
    assert not armed()


def test_a_point_that_fires_says_so_first(capfd: pytest.CaptureFixture[str]) -> None:
    arm("relay.claimed=raise@2")
    failpoint("relay.claimed")
    assert capfd.readouterr().err == ""

    with pytest.raises(InjectedFault):
        failpoint("relay.claimed")
    assert capfd.readouterr().err == f"failpoint relay.claimed raise hit 2 pid {os.getpid()}\n"


@pytest.mark.parametrize(("action", "number"), [("kill", signal.SIGKILL), ("pause", signal.SIGSTOP)])
def test_kill_and_pause_are_signals_to_this_process(action: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, signum: sent.append((pid, signum)))
    arm(f"relay.claimed={action}")

    failpoint("relay.claimed")

    assert sent == [(os.getpid(), number)]


def test_sleep_takes_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    arm("relay.claimed=sleep:250")

    failpoint("relay.claimed")

    assert slept == [0.25]


def test_the_environment_arms_a_process_and_a_kill_ends_it() -> None:
    code = "from eventplat.failpoints import failpoint; failpoint('relay.claimed'); print('alive')"
    environment = {**os.environ, "EVENTPLAT_FAILPOINTS": "relay.claimed=kill"}

    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout == ""
    assert ended.stderr.startswith("failpoint relay.claimed kill hit 1 pid ")


def test_the_points_in_the_house_are_those_in_the_list() -> None:
    passed = {
        node.args[0].value
        for path in HOUSE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "failpoint"
        and node.args and isinstance(node.args[0], ast.Constant)
    }  # fmt: skip

    assert passed == NAMES
    assert all(re.fullmatch(r"[a-z]+\.[a-z_]+", name) for name in NAMES)
