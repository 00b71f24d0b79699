"""docker-compose.yml: what runs says whether it is well."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.faults.stack import SERVICES

COMPOSE = (Path(__file__).parents[2] / "docker-compose.yml").read_text()


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_of_the_shop_has_its_own_health_check(service: str) -> None:
    block = re.search(rf"^  {service}:\n((?:    .*\n)+)", COMPOSE, re.MULTILINE)

    assert block is not None
    assert f"command: [run, services.{service}]" in block[1]
    assert f"healthcheck: {{<<: *health, test: [CMD, eventplat, health, {service}]}}" in block[1]
