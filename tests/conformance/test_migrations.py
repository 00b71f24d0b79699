"""Migrations: what `eventplat db upgrade` makes is what the services' code declares, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from random import SystemRandom
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, Connection, MetaData, Table, Text, inspect

from eventplat.broker.connect import open_transport
from eventplat.clock import SystemClock
from eventplat.errors import SettingsError
from eventplat.service.load import discover
from eventplat.service.outgoing import Outgoings
from eventplat.service.service import Service
from eventplat.settings import load
from eventplat.storage.database import Database
from eventplat.storage.migrate import check, create_tables, upgrade, upgrade_service
from eventplat.storage.tables import platform

ROOT = Path(__file__).parents[2]
SERVICES = discover(ROOT / "services")


@pytest.fixture(params=["postgresql", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "postgresql":
        from tests.servers import fresh_database  # noqa: PLC0415 - starts a server, only when a test needs it

        yield fresh_database()
    else:
        yield f"sqlite:///{tmp_path / 'file.db'}"


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_the_migrations_make_the_tables_that_the_code_declares(url: str, service: Service[Any]) -> None:
    asyncio.run(_compare(url, service))


def test_the_migrations_make_the_platforms_own_tables_and_indexes(url: str) -> None:
    async def compare() -> None:
        database = Database(url, service="orders", clock=SystemClock(), pool_size=2)
        try:
            await upgrade(database)
            async with database.transaction() as connection:
                assert await connection.run_sync(_platform_differences) == []
                assert await connection.run_sync(_indexes) == {
                    (str(table.name), str(index.name), tuple(column.name for column in index.columns), bool(index.unique))
                    for table in platform.tables.values()
                    for index in table.indexes
                }
        finally:
            await database.close()

    asyncio.run(compare())


async def _compare(url: str, service: Service[Any]) -> None:
    database = Database(url, service=service.name, clock=SystemClock(), pool_size=2)
    try:
        for _ in range(2):  # a second run finds everything done
            await upgrade(database)
            await upgrade_service(database, ROOT / "migrations", service.name)
        await check(database)
        async with database.transaction() as connection:
            assert await connection.run_sync(_differences, service) == []
            assert await connection.run_sync(_checks) >= _declared_checks(service)
    finally:
        await database.close()


def _differences(connection: Connection, service: Service[Any]) -> list[Any]:
    def ours(name: str | None, kind: str, _: Any) -> bool:
        return not (kind == "table" and str(name).startswith(("eventplat_", "alembic_")))

    context = MigrationContext.configure(connection, opts={"include_name": ours})
    assert service.tables is not None
    return list(compare_metadata(context, service.tables))


def _platform_differences(connection: Connection) -> list[Any]:
    def ours(name: str | None, kind: str, _: Any) -> bool:
        return kind != "table" or name in platform.tables

    return list(compare_metadata(MigrationContext.configure(connection, opts={"include_name": ours}), platform))


def _indexes(connection: Connection) -> set[tuple[str, str, tuple[str | None, ...], bool]]:
    inspector = inspect(connection)
    return {
        (table, str(index["name"]), tuple(index["column_names"]), bool(index["unique"]))
        for table in platform.tables
        for index in inspector.get_indexes(table)
        if "duplicates_constraint" not in index
    }


def _checks(connection: Connection) -> set[str]:
    inspector = inspect(connection)
    return {str(found["name"]) for table in inspector.get_table_names() for found in inspector.get_check_constraints(table)}


def _declared_checks(service: Service[Any]) -> set[str]:
    assert service.tables is not None
    names = (constraint.name for table in service.tables.tables.values() for constraint in table.constraints)
    return {str(name) for name in names if str(name).startswith("ck_")}


@pytest.mark.parametrize("made_by", ["create_all", "a running process"])
def test_an_upgrade_takes_over_what_a_development_process_made(url: str, tmp_path: Path, made_by: str) -> None:
    service = SERVICES[0]
    asyncio.run(_take_over(url, service, tmp_path, None if made_by == "create_all" else ROOT / "migrations"))


async def _take_over(url: str, service: Service[Any], folder: Path, migrations: Path | None) -> None:
    broker = f"embedded://{folder / 'broker.db'}"
    settings = load(data_dir=folder, profile="dev", broker_url=broker, database_url=url, migrations_dir=migrations)
    clock = SystemClock()
    transport = open_transport(broker, name="test", clock=clock)
    out = Outgoings(service, settings, transport, owners={}, clock=clock, chance=SystemRandom())
    await out.start(service.tables)
    assert await _has_version(out.database) == (migrations is not None)
    await upgrade_service(out.database, ROOT / "migrations", service.name, service.tables)
    assert await _has_version(out.database)
    async with out.database.transaction() as connection:
        assert await connection.run_sync(_differences, service) == []
    await out.stop()


async def _has_version(database: Database) -> bool:
    async with database.transaction(read_only=True) as connection:
        return await connection.run_sync(lambda sync: inspect(sync).has_table("alembic_version"))


def test_an_upgrade_refuses_tables_of_another_shape_that_no_migration_made(url: str) -> None:
    service = SERVICES[0]

    async def test() -> None:
        database = Database(url, service=service.name, clock=SystemClock(), pool_size=2)
        await upgrade(database)
        assert service.tables is not None
        other = MetaData()
        Table(next(iter(service.tables.tables.values())).name, other, Column("other", Text))
        await create_tables(database, other)
        with pytest.raises(SettingsError, match="made without migrations"):
            await upgrade_service(database, ROOT / "migrations", service.name, service.tables)
        await database.close()

    asyncio.run(test())
