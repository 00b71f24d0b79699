"""Databases by URL: which are spoken, and what is shown of one."""

from __future__ import annotations

import asyncio
import sqlite3
import traceback
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from eventplat.errors import SettingsError
from eventplat.storage.database import Database
from eventplat.storage.postgres import role_of, schema_of
from eventplat.testing.virtual_clock import VirtualClock


@pytest.mark.parametrize(
    ("url", "dialect"),
    [
        ("postgresql://shop:hunter2@db/shop", "postgresql"), ("postgresql://shop:hunter2@/shop?host=a:1&host=b:2", "postgresql"),
        ("sqlite://", "sqlite"),
    ],
)  # fmt: skip
def test_postgresql_and_sqlite_are_spoken_and_no_password_is_shown(url: str, dialect: str) -> None:
    database = Database(url, service="shop", clock=VirtualClock())
    asyncio.run(database.close())

    assert database.dialect == dialect
    assert "hunter2" not in f"{database.url} {database.engine!r} {database.engine.url!r}"


@pytest.mark.parametrize("url", ["hunter2", "", "shop:hunter2@db", "postgresql://shop:hunter2@db:port/shop", "mysql://shop:hunter2@db/shop"])
def test_any_other_url_stops_the_process_without_being_shown(url: str) -> None:
    with pytest.raises(SettingsError, match="postgresql://") as raised:
        Database(url, service="shop", clock=VirtualClock())

    assert "hunter2" not in str(raised.value)
    assert "hunter2" not in "".join(traceback.format_exception(raised.value))


def test_a_files_folder_is_made(tmp_path: Path) -> None:
    Database(f"sqlite:///{tmp_path / 'new' / 'shop.db'}", service="shop", clock=VirtualClock())

    assert (tmp_path / "new").is_dir()


def test_a_writing_transaction_on_sqlite_holds_the_file_from_its_first_read_on(tmp_path: Path) -> None:
    async def test() -> None:
        database = Database(f"sqlite:///{tmp_path / 'shop.db'}", service="shop", clock=VirtualClock())
        with closing(sqlite3.connect(tmp_path / "shop.db", timeout=0, isolation_level=None)) as other:
            async with database.transaction() as connection:
                await connection.execute(text("SELECT 1"))
                with pytest.raises(sqlite3.OperationalError, match="locked"):  # else what was read may be old when it is written
                    other.execute("BEGIN IMMEDIATE")
            other.execute("BEGIN IMMEDIATE")
        await database.close()

    asyncio.run(test())


def test_a_service_has_a_schema_and_a_role_of_its_own() -> None:
    assert (schema_of("order-book"), role_of("order-book")) == ("order_book", "eventplat_order_book")
