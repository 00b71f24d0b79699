"""Deliberate bugs: each patch in `bugs/` breaks the package in one known way, and the test that it names turns red.

A suite that has never seen a fault proves nothing. Each patch is applied to a copy of the house, in which its tests then
run; without a patch the same tests are green in the same copy. A patch begins with what goes wrong, and `Red:` with
each test that sees it:

    An undo that overtakes its command leaves nothing behind: the late command runs and is never undone.
    Red: tests/conformance/test_pipeline.py::test_an_undo_that_overtakes_its_command_makes_it_void[sqlite]
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import URLS
from tests.servers import postgres_url, rabbitmq_url

ROOT = Path(__file__).parents[2]
COPIED = ("eventplat", "services", "tests")
AT_LEAST = 15
HANGS_S = 20          # a test that a bug makes hang is red too
pytestmark = [pytest.mark.timeout(300), pytest.mark.alone]    # it fills the processors by itself


@dataclass(frozen=True)
class Bug:
    """One patch, read."""

    path: Path

    @property
    def why(self) -> str:
        return self.path.read_text().partition("\n")[0]

    @property
    def red(self) -> tuple[str, ...]:
        """The tests that must fail."""
        return tuple(re.findall(r"^Red: (\S+)$", self.path.read_text(), re.MULTILINE))


@dataclass(frozen=True)
class Run:
    """How pytest ended in a copy."""

    code: int
    output: str

    def failed(self, test: str) -> bool:
        """Whether `test`, or one of its parameters, failed; one that could not be collected or set up did not."""
        return re.search(rf"^FAILED {re.escape(test)}(\[| |$)", self.output, re.MULTILINE) is not None


BUGS = [Bug(path) for path in sorted((Path(__file__).parent / "bugs").glob("*.patch"))]


def copied(folder: Path) -> Path:
    """A copy of the house with its compiled files, so that only what a patch touches is compiled again."""
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def patched(folder: Path, bug: Bug) -> Path:
    """`folder` as a copy of the house with `bug` in it."""
    command = ["git", "apply", "--include=eventplat/*", "-C1", str(bug.path)]
    outside = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}  # inside a repository git would skip what it does not track
    done = subprocess.run(command, cwd=copied(folder), env=outside, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{bug.path.name} no longer applies. Write it anew for today's code:\n{done.stderr}"
    return folder


def run(folder: Path, tests: Sequence[str], urls: dict[str, str]) -> Run:
    """Run `tests` in `folder`, each until it ends or hangs."""
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider", f"--timeout={HANGS_S}", *tests]
    environment = {**os.environ, **urls}
    done = subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return Run(done.returncode, done.stdout + done.stderr)


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Run]]]:
    """A run of each bug whose test was asked for. Many at once: most of a red run is a wait that ends in vain."""
    urls = dict(zip(URLS, (rabbitmq_url(), postgres_url()), strict=True))
    functions = [item for item in request.session.items if isinstance(item, pytest.Function) and item.path == Path(__file__)]
    asked = [bug for item in functions if isinstance(bug := getattr(item, "callspec", None) and item.callspec.params["bug"], Bug)]

    def one(bug: Bug) -> Run:
        return run(patched(tmp_path_factory.mktemp(bug.path.stem) / "house", bug), bug.red, urls)

    with ThreadPoolExecutor(4 * (os.cpu_count() or 1)) as pool:
        yield {bug.path.name: pool.submit(one, bug) for bug in asked}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.path.stem)
def test_a_deliberate_bug_turns_its_test_red(bug: Bug, runs: dict[str, Future[Run]]) -> None:
    found = runs[bug.path.name].result()

    assert bug.red
    assert [test for test in bug.red if not found.failed(test)] == [], f"nobody sees it: {bug.why}\n{found.output}"


def test_without_a_bug_the_same_tests_are_green(tmp_path: Path) -> None:
    urls = dict(zip(URLS, (rabbitmq_url(), postgres_url()), strict=True))

    found = run(copied(tmp_path / "house"), sorted({test for bug in BUGS for test in bug.red}), urls)

    assert found.code == 0, found.output
    assert len(BUGS) >= AT_LEAST


def test_a_patch_that_no_longer_applies_says_so(tmp_path: Path) -> None:
    stale = tmp_path / "stale.patch"
    stale.write_text(BUGS[0].path.read_text().replace("\n ", "\n never there "))

    with pytest.raises(AssertionError, match=r"stale\.patch no longer applies\. Write it anew"):
        patched(tmp_path / "house", Bug(stale))
