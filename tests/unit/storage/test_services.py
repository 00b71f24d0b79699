"""Whose databases there are, told by the settings alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from eventplat.clock import SystemClock
from eventplat.settings import Settings, load
from eventplat.storage.database import Database
from eventplat.storage.migrate import upgrade
from eventplat.storage.services import services_of


def found(settings: Settings) -> list[str]:
    return asyncio.run(services_of(settings, SystemClock()))


def made(url: str, service: str) -> None:
    async def make() -> None:
        database = Database(url, service=service, clock=SystemClock(), pool_size=2)
        await upgrade(database)
        await database.close()

    asyncio.run(make())


def test_a_services_file_is_told_from_whatever_else_lies_beside_it(tmp_path: Path) -> None:
    settings = load(data_dir=tmp_path, broker_url=None, database_url=None)
    made(settings.database("order-book"), "order-book")
    (tmp_path / "empty.db").touch()
    (tmp_path / "other.db").write_text("no database at all, but long enough to be looked at" * 10)
    (tmp_path / "folder.db").mkdir()

    assert found(settings) == ["order-book"]
    assert sorted(path.name for path in tmp_path.glob("*.db")) == ["empty.db", "folder.db", "order-book.db", "other.db"], "none is made"


def test_a_service_with_a_database_of_its_own_is_found_where_it_is(tmp_path: Path) -> None:
    urls = {name: f"sqlite:///{tmp_path / 'elsewhere' / name}.db" for name in ("shop", "mail")}
    made(urls["shop"], "shop")

    assert found(load(data_dir=tmp_path, broker_url=None, database_url=None, database_urls=urls)) == ["shop"]


@pytest.mark.parametrize("settings", [{}, {"database_url": "sqlite:////nowhere/all.db"}])
def test_nothing_is_found_where_nothing_is(tmp_path: Path, settings: dict[str, str]) -> None:
    assert found(load(data_dir=tmp_path / "missing", broker_url=None, **settings)) == []


def test_services_that_share_a_postgresql_are_found_by_their_schemas() -> None:
    from tests.servers import fresh_database  # noqa: PLC0415 - starts a server, only when a test needs it

    url = fresh_database()
    for service in ("shop", "order-book"):
        made(url, service)

    assert found(load(database_url=url)) == ["order-book", "shop"]
