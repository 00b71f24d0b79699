"""House rules that no linter knows, read from the source; each is also shown red on a planted file.

A rule is a function from a source tree to the list of its offences, so that the same function judges the house
and a small tree with one fault in it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
SOURCES = ("eventplat", "services")
DOORS = frozenset(f"eventplat/{door}__init__.py" for door in ("", "testing/", "gateway/", "coordination/", "storage/"))
PURE = (
    "eventplat/hashing.py", "eventplat/messages/*.py", "eventplat/sagas/saga.py", "eventplat/sagas/history.py",
    "eventplat/sagas/replay.py", "eventplat/sagas/branches.py",
)
OUTSIDE_WORLD = frozenset({
    "aiosqlite", "asyncio", "asyncpg", "concurrent", "contextvars", "fastapi", "http", "io", "kombu", "logging",
    "multiprocessing", "os", "pathlib", "pika", "queue", "secrets", "select", "selectors", "shutil", "signal", "socket",
    "sqlalchemy", "sqlite3", "ssl", "starlette", "structlog", "subprocess", "sys", "tempfile", "tenacity", "threading",
    "time", "urllib", "uvicorn",
})
BROKER_FILES = {"pika": "eventplat/broker/rabbitmq", "kombu": "eventplat/broker/embedded"}
CHANCE_MADE_IN = frozenset({       # where a process begins; from there on ids and chance come in through the door
    "eventplat/process.py", "eventplat/gateway/app.py", "eventplat/service/client.py", "eventplat/security/keys.py",
    "eventplat/broker/rabbitmq.py", "services/demo/main.py", "services/demo/shop.py",
})
VAGUE = frozenset({"common", "helper", "helpers", "manager", "misc", "util", "utils"})


def modules(root: Path) -> Iterator[tuple[str, ast.Module]]:
    """Each source file's path below `root`, and its tree."""
    for source in SOURCES:
        for path in sorted((root / source).rglob("*.py")):
            yield path.relative_to(root).as_posix(), ast.parse(path.read_text(), str(path))


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The line and full name of everything a file imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def without_a_docstring(root: Path) -> list[str]:
    """A file opens with its role."""
    return [path for path, tree in modules(root) if tree.body and not ast.get_docstring(tree)]


def busy_package_files(root: Path) -> list[str]:
    """Only a public door holds names; every other `__init__.py` is empty or a docstring."""
    return [
        f"{path}:{statement.lineno}"
        for path, tree in modules(root)
        if path.endswith("/__init__.py") and path not in DOORS
        for statement in tree.body[1 if ast.get_docstring(tree) else 0 :]
    ]


def impure_cores(root: Path) -> list[str]:
    """What decides can be run in a test without a loop, a clock or a disk."""
    return [
        f"{path}:{line} imports {name}"
        for path, tree in modules(root)
        if any(Path(path).match(pattern) for pattern in PURE)
        for line, name in imports(tree)
        if name.split(".")[0] in OUTSIDE_WORLD
    ]


def brokers_out_of_place(root: Path) -> list[str]:
    """pika is known by `broker/rabbitmq*.py` alone, kombu by `broker/embedded*.py` alone."""
    return [
        f"{path}:{line} imports {name}"
        for path, tree in modules(root)
        for line, name in imports(tree)
        if (home := BROKER_FILES.get(name.split(".")[0])) and not path.startswith(home)
    ]


def relative_imports(root: Path) -> list[str]:
    """An import says in full where a name lives."""
    return [
        f"{path}:{node.lineno}"
        for path, tree in modules(root)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]


def vague_names(root: Path) -> list[str]:
    """A file is named for its role."""
    return [path for path, _ in modules(root) if set(Path(path).stem.split("_")) & VAGUE]


def waiting_by_the_clock(root: Path) -> list[str]:
    """A thread that sleeps holds the loop of its whole process; only a failpoint is asked to."""
    return [
        f"{path}:{node.lineno}"
        for path, tree in modules(root)
        for node in ast.walk(tree)
        if path != "eventplat/failpoints.py" and isinstance(node, ast.Attribute | ast.ImportFrom)
        and ast.unparse(node) in {"time.sleep", "from time import sleep"}
    ]


def chance_out_of_thin_air(root: Path) -> list[str]:
    """Ids and chance come in through the door, so that a simulation replays exactly."""
    drawn = {"uuid.uuid1", "uuid.uuid4", "random.SystemRandom", "random.random", "secrets.token_hex"}
    return [
        f"{path}:{line} imports {name}"
        for path, tree in modules(root)
        if path not in CHANCE_MADE_IN
        for line, name in imports(tree)
        if name in drawn or name in {"uuid", "secrets"}
    ]


def pickles(root: Path) -> list[str]:
    """What comes from a queue is data; unpickling it would run it."""
    return [
        f"{path}:{line} imports {name}"
        for path, tree in modules(root)
        for line, name in imports(tree)
        if name.split(".")[0] in {"cloudpickle", "dill", "marshal", "pickle", "shelve"}
    ]


Rule = Callable[[Path], list[str]]
PLANTED: list[tuple[Rule, str, str]] = [
    (without_a_docstring, "eventplat/lease.py", "x = 1\n"),
    (busy_package_files, "eventplat/sagas/__init__.py", '"""Sagas."""\nfrom eventplat.sagas.saga import Saga\n'),
    (busy_package_files, "services/stock/__init__.py", "import os\n"),
    (impure_cores, "eventplat/sagas/replay.py", "def run():\n    import asyncio\n"),
    (impure_cores, "eventplat/messages/codec.py", "from pathlib import Path\n"),
    (impure_cores, "eventplat/hashing.py", "from time import monotonic\n"),
    (brokers_out_of_place, "eventplat/broker/transport.py", "from pika import BasicProperties\n"),
    (brokers_out_of_place, "eventplat/broker/rabbitmq_wire.py", "import kombu.transport\n"),
    (relative_imports, "eventplat/broker/connect.py", "from .transport import Transport\n"),
    (vague_names, "eventplat/broker/queue_helpers.py", "x = 1\n"),
    (waiting_by_the_clock, "services/stock/service.py", "import time\ntime.sleep(1)\n"),
    (waiting_by_the_clock, "services/stock/service.py", "from time import sleep\n"),
    (chance_out_of_thin_air, "eventplat/routing/request_reply.py", "from uuid import uuid4\n"),
    (chance_out_of_thin_air, "eventplat/discovery/announcer.py", "from random import SystemRandom\n"),
    (pickles, "eventplat/messages/codec.py", "import pickle\n"),
]
RULES = list(dict.fromkeys(rule for rule, _, _ in PLANTED))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule: Rule) -> None:
    assert rule(HOUSE) == []


@pytest.mark.parametrize(("rule", "path", "source"), PLANTED, ids=[f"{rule.__name__}-{path}" for rule, path, _ in PLANTED])
def test_the_rule_finds_what_breaks_it(rule: Rule, path: str, source: str, tmp_path: Path) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(source)

    found = rule(tmp_path)

    assert len(found) == 1
    assert found[0].startswith(path)


def test_the_rules_read_the_whole_house() -> None:
    paths = {path for path, _ in modules(HOUSE)}

    assert len(paths) > 100
    for pattern in PURE:
        assert any(Path(path).match(pattern) for path in paths), pattern
