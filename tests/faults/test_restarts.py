"""A short form of the restarts campaign: the broker is stopped once and killed once. The whole: `make campaign-restarts`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.restarts import campaign
from tests.servers import shared_postgres, shared_rabbitmq


@pytest.mark.timeout(300)
@pytest.mark.alone
def test_after_a_restart_of_the_broker_all_consume_again_soon_and_nobody_else_was_restarted(tmp_path: Path) -> None:
    report = asyncio.run(campaign(tmp_path, shared_rabbitmq(), shared_postgres(), times=2, within_s=60))

    assert report.wrong == [], report.line()
