"""`eventplat`: quick to help, and a mistake is a sentence and an exit code, not a traceback."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from eventplat.cli import main
from eventplat.cli.main import COMMANDS
from tests.unit.cli.terminal import Terminal

_QUICK = """
import sys
from click.testing import CliRunner
from eventplat.cli.main import cli
assert CliRunner().invoke(cli, ["--help"]).exit_code == 0
heavy = {"sqlalchemy", "pika", "kombu", "fastapi", "pydantic", "asyncio", "eventplat.errors"} & set(sys.modules)
assert not heavy, heavy
"""


def test_help_lists_every_command_with_what_it_does(terminal: Terminal) -> None:
    said = terminal.type("--help")

    assert said.code == 0
    assert all(f"  {name} " in said.out for name in COMMANDS)
    assert terminal.type("-h") == said


def test_help_loads_nothing_of_the_platform() -> None:
    ended = subprocess.run([sys.executable, "-c", _QUICK], capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_helps(name: str, terminal: Terminal) -> None:
    said = terminal.type(name, "--help")

    assert said.code == 0
    assert said.out.startswith(f"Usage: eventplat {name}")


def test_every_file_of_a_command_is_in_the_list() -> None:
    shared = {"__init__", "main", "desks", "output"}
    files = {path.stem for path in Path(main.__file__).parent.glob("*.py")} - shared

    assert files == set(COMMANDS)


def test_the_version_is_the_packages(terminal: Terminal) -> None:
    assert terminal.type("--version").out.strip().endswith(version("eventplat"))


@pytest.mark.parametrize(
    "words",
    [["nonsense"], ["run"], ["explain"], ["dev", "--port", "65536"], ["dev", "--port", "x"], ["demo", "--count", "0"],
     ["demo", "--orders", "nowhere.csv.gz"], ["topology", "nonsense"], ["db", "nonsense"], ["--nonsense"]],
)  # fmt: skip
def test_a_word_that_is_wrong_is_exit_code_2_with_the_usage(words: list[str], terminal: Terminal) -> None:
    said = terminal.type(*words)

    assert said.code == 2
    assert said.err.startswith("Usage: eventplat")
    assert "Error: " in said.err or "Try " in said.err or "Commands" in said.err


BAD_DATABASE = "the database URL of shop cannot be read"


@pytest.mark.parametrize(
    ("words", "environment", "code", "names"),
    [
        (["run", "services.nowhere"], {}, "EP712", "services.nowhere"),
        (["run", "nowhere.py"], {}, "EP712", "nowhere.py"),
        (["dev"], {}, "EP712", "services/"),
        (["topology", "apply"], {}, "EP712", "services/"),
        (["topology", "apply", "nowhere"], {}, "EP712", "nowhere"),
        (["db", "upgrade"], {}, "EP712", "services/"),
        (["run", "app.py"], {"EVENTPLAT_PREFETCH": "many"}, "EP900", "EVENTPLAT_PREFETCH"),
        (["run", "app.py"], {"EVENTPLAT_DATABASE_URLS": "{hunter2"}, "EP900", "EVENTPLAT_DATABASE_URLS"),
        (["gateway"], {"EVENTPLAT_PROFILE": "production"}, "EP900", "EVENTPLAT_BROKER_URL"),
        (["run", "app.py"], {"EVENTPLAT_BROKER_URL": "http://shop:hunter2@b/"}, "EP900", "amqp://"),
        (["run", "app.py"], {"EVENTPLAT_BROKER_URL": "embedded://data/broker.db"}, "EP900", "absolute"),
        (["run", "app.py"], {"EVENTPLAT_DATABASE_URL": "hunter2"}, "EP900", BAD_DATABASE),
        (["run", "app.py"], {"EVENTPLAT_DATABASE_URL": "postgresql://shop:hunter2@db:port/x"}, "EP900", BAD_DATABASE),
        (["run", "app.py"], {"EVENTPLAT_DATABASE_URL": "mysql://shop:hunter2@db/x"}, "EP900", "***@db/x"),
        (["db", "upgrade", "app.py"], {"EVENTPLAT_DATABASE_URL": "mysql://shop:hunter2@db/x"}, "EP900", "***@db/x"),
    ],
)  # fmt: skip
def test_a_mistake_is_its_text_and_exit_code_1(
    words: list[str], environment: dict[str, str], code: str, names: str, terminal: Terminal, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    said = terminal.type(*words)

    assert said.code == 1
    assert said.err.startswith("eventplat: ")
    assert said.err.endswith(f"[{code}]\n")
    assert names in said.err
    assert "hunter2" not in said.err + said.out


def test_a_bug_is_a_traceback(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("1 / 0\n")

    with pytest.raises(ZeroDivisionError):
        terminal.type("run", "app.py")
