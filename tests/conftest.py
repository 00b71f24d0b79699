"""What every test can ask for, and the rule that CI skips nothing.

A skipped test looks green. With `CI=true` in the environment a skip fails instead, with the skip's own reason:
what CI promises to run, it runs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

import pytest

from tests import servers
from tests.binaries import NotInstalled, ensure_packages

HOUSE = Path(__file__).parent
SERVERLESS = frozenset({"unit", "architecture", "typing"})  # rooms whose tests need no server
URLS = ("EVENTPLAT_TEST_AMQP_URL", "EVENTPLAT_TEST_POSTGRES_URL")


@pytest.fixture(scope="session")
def rabbitmq() -> servers.RabbitServer:
    """This process's own RabbitMQ, which a test may kill and start again."""
    return servers.shared_rabbitmq()


@pytest.fixture(scope="session")
def postgres() -> servers.PostgresServer:
    """This process's own PostgreSQL, which a test may kill and start again."""
    return servers.shared_postgres()


@pytest.fixture(scope="session")
def amqp_url() -> str:
    """A running RabbitMQ: the one that the environment names, or this process's own."""
    return servers.rabbitmq_url()


@pytest.fixture(scope="session")
def postgres_url() -> str:
    """A running PostgreSQL: the one that the environment names, or this process's own."""
    return servers.postgres_url()


@pytest.fixture
def fresh_postgres_url() -> str:
    """A new, empty database on that PostgreSQL, for this test alone."""
    return servers.fresh_database()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Install missing servers before the first test: a test's own time limit would end apt-get in the middle.

    Where that is impossible, each test that needs a server fails with the command to run.
    """
    rooms = {item.path.relative_to(HOUSE).parts[0] for item in session.items if item.path.is_relative_to(HOUSE)}
    if rooms - SERVERLESS and not session.config.option.collectonly and not all(os.environ.get(url) for url in URLS):
        with contextlib.suppress(NotInstalled):
            ensure_packages()


def skips_are_failures() -> bool:
    return os.environ.get("CI", "").lower() in {"1", "true"}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and skips_are_failures():
        report.outcome, report.longrepr = "failed", f"skipped under CI: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped and skips_are_failures():
        report.outcome, report.longrepr = "failed", f"skipped under CI: {report.longrepr}"
    return report
