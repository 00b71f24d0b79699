"""Partitions over real processes, on RabbitMQ and PostgreSQL. For long: `make campaign-partitions`."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from tests.faults.partitions import Fleet, played
from tests.servers import fresh_database, rabbitmq_url


@pytest.mark.timeout(400)
def test_one_three_one_processes_share_eight_partitions_evenly_and_apply_each_event_once_in_order(tmp_path: Path) -> None:
    environment = {
        "EVENTPLAT_PROFILE": "dev", "EVENTPLAT_BROKER_URL": rabbitmq_url(), "EVENTPLAT_DATABASE_URL": fresh_database(),
        "EVENTPLAT_PREFIX": f"p{random.randrange(1 << 30)}", "EVENTPLAT_PROCESS_TERM_S": "3", "EVENTPLAT_HEARTBEAT_S": "1",
    }  # fmt: skip
    fleet = Fleet(tmp_path, environment)

    wrong = asyncio.run(played(fleet, 320, pause_s=1.0))

    assert wrong == []
    sizes = [line.split(" hold ")[1].split(" after ")[0] for line in fleet.lines]
    assert sizes[:4] == ["[8]", "[3, 3, 2]", "[4, 4]", "[8]"]
    assert sizes == sizes[:4] * (len(sizes) // 4), "a quick machine has time for another cycle"
