"""Tables: their names cannot meet a service's, and the newest migration is the one this release asks for."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

import eventplat
from eventplat.storage import migrations
from eventplat.storage.tables import VERSION, VERSION_TABLE, now_us, platform


def tables() -> set[str]:
    for module in pkgutil.walk_packages(eventplat.__path__, "eventplat."):
        if ".migrations" not in module.name:
            importlib.import_module(module.name)
    return set(platform.tables)


def test_every_table_of_the_platform_is_told_from_a_services_own_by_its_name() -> None:
    assert len(tables()) >= 8
    assert [name for name in (*tables(), VERSION_TABLE) if not name.startswith("eventplat_")] == []


def test_every_row_says_its_bucket() -> None:
    columns = {name: platform.tables[name].c for name in tables()}

    assert {name for name, has in columns.items() if "bucket" not in has or has.bucket.nullable} == set()


def test_this_release_asks_for_the_newest_migration() -> None:
    files = [path.stem for path in (Path(migrations.__path__[0]) / "versions").glob("v*.py")]

    assert max(files) == f"v{VERSION}"


def test_the_databases_clock_is_read_anew_by_every_statement() -> None:
    assert "clock_timestamp()" in str(select(now_us()).compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]
    assert "eventplat_now_us()" in str(select(now_us()).compile(dialect=sqlite.dialect()))
