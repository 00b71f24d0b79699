"""A short form of the messages campaign: each of its faults at least once. The whole: `make campaign-messages`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.messages import campaign
from tests.servers import shared_postgres, shared_rabbitmq

EVENTS = 2_000
ROUND = {
    "confirms swallowed": 1, "producer killed": 1, "consumer killed": 1, "broker link cut": 2, "database link cut": 1, "broker killed": 1,
}  # fmt: skip


@pytest.mark.timeout(300)
@pytest.mark.alone
def test_under_faults_nothing_is_lost_nothing_happens_twice_and_order_is_kept(tmp_path: Path) -> None:
    report = asyncio.run(
        campaign(tmp_path, shared_rabbitmq(), shared_postgres(), events=EVENTS, rate=400, pause_s=1.0, rounds=ROUND)
    )

    assert report.wrong == [], "\n".join(report.lines())
