"""Shops to test against: the whole platform as one process in this loop's memory, or as processes on real servers."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import pytest

from services.demo.shop import Shop
from tests.faults.books import Fetch, of_files, of_server
from tests.faults.stack import Kind, Stack
from tests.servers import rabbitmq_url, shared_postgres

RETAIL = Path(__file__).parents[2].parent / "shared" / "data" / "online_retail_2010-12.csv.gz"
KINDS: tuple[Kind, ...] = ("embedded", "local")


@dataclass(frozen=True)
class Open:
    """An open shop and its books."""

    shop: Shop
    stack: Stack
    fetch: Fetch
    http: httpx.AsyncClient


@asynccontextmanager
async def opened(kind: Literal["embedded", "local"], folder: Path) -> AsyncIterator[Open]:
    """A shop of this kind; local: on RabbitMQ and PostgreSQL, under names of its own."""
    environment = {"EVENTPLAT_LOG_LEVEL": "warning", "EVENTPLAT_OPERATION_KEY": uuid.uuid4().hex}
    fetch = of_files(folder / "data")
    if kind == "local":
        server = shared_postgres()
        database = server.create_database()
        environment |= {
            "EVENTPLAT_PROFILE": "dev",
            "EVENTPLAT_BROKER_URL": rabbitmq_url(),
            "EVENTPLAT_DATABASE_URL": database,
            "EVENTPLAT_PREFIX": f"t{uuid.uuid4().hex[:8]}",
        }
        fetch = of_server(server, database.rpartition("/")[2])
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with Stack(kind, folder, environment) as stack, httpx.AsyncClient(base_url=stack.url, timeout=60, limits=limits) as http:
        yield Open(Shop(http), stack, fetch, http)


def retail_file() -> Path:
    """The real invoices; without them the test skips, which CI counts as a failure."""
    found = Path(os.environ.get("EVENTPLAT_RETAIL_FILE", RETAIL))
    if not found.exists():
        pytest.skip(f"the retail file is not at {found}")
    return found
