"""What every test can ask for, and the rule that CI skips nothing.

A skipped test looks green. With `CI=true` in the environment a skip fails instead, with the skip's own reason:
what CI promises to run, it runs.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from tests import servers


@pytest.fixture
def amqp_url() -> str:
    """A running RabbitMQ, shared with the other tests of this process."""
    return servers.rabbitmq_url()


@pytest.fixture
def postgres_url() -> str:
    """A new, empty database on a running PostgreSQL."""
    return servers.fresh_database()


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
