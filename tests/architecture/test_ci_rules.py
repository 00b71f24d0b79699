"""CI skips nothing: the hooks of tests/conftest.py, seen on planted test files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
SKIPS = {
    "in the test": "import pytest\ndef test_one(): pytest.skip('no server')\n",
    "by a mark": "import pytest\n@pytest.mark.skip(reason='no server')\ndef test_one(): pass\n",
    "while it is collected": "import pytest\npytest.skip('no server', allow_module_level=True)\n",
}
EXPECTED_FAILURE = "import pytest\n@pytest.mark.xfail(strict=True)\ndef test_one(): assert False\n"


@pytest.mark.parametrize("source", SKIPS.values(), ids=SKIPS.keys())
def test_a_skip_fails_under_ci_and_says_why(source: str, tmp_path: Path) -> None:
    done = run_planted(source, tmp_path, ci="true")

    assert done.returncode not in {0, 5}, done.stdout
    assert "skipped under CI" in done.stdout
    assert "no server" in done.stdout


@pytest.mark.parametrize("source", SKIPS.values(), ids=SKIPS.keys())
def test_a_skip_is_a_skip_elsewhere(source: str, tmp_path: Path) -> None:
    done = run_planted(source, tmp_path, ci="")

    assert done.returncode in {0, 5}, done.stdout  # 5: nothing was collected
    assert "1 skipped" in done.stdout


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    done = run_planted(EXPECTED_FAILURE, tmp_path, ci="true")

    assert done.returncode == 0, done.stdout
    assert "1 xfailed" in done.stdout


def run_planted(source: str, room: Path, *, ci: str) -> subprocess.CompletedProcess[str]:
    """What pytest says about one planted file, with the house's hooks and nothing else of the house."""
    planted = room / "test_planted.py"
    planted.write_text(source)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "--rootdir", str(room), "-c", os.devnull, str(planted)]
    environment = {**os.environ, "CI": ci, "PYTHONPATH": str(HOUSE)}
    return subprocess.run(command, cwd=HOUSE, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
