"""Services: whose databases there are, for an operator who has the settings and not the code.

PostgreSQL: the schemas that hold the platform's tables. SQLite: the files in the data directory that do. And whoever has a
database of its own by the settings.

Next: storage.database
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sqlalchemy import text

from eventplat.clock import Clock
from eventplat.settings import Settings
from eventplat.storage.database import Database

_SCHEMAS = text("""
    SELECT n.nspname AS name FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relname = 'eventplat_pending' AND c.relkind IN ('r', 'p')
""")
_TABLE = "SELECT 1 FROM sqlite_master WHERE name = 'eventplat_pending'"


async def services_of(settings: Settings, clock: Clock) -> list[str]:
    """The services that have the platform's tables where `settings` points, by name."""
    urls = {name: url.get_secret_value() for name, url in settings.database_urls.items()}
    named = {name for name, url in urls.items() if not _is_sqlite(url) or _is_there(url)}
    if settings.database_url is None:
        return sorted(named | {path.stem for path in settings.data_dir.glob("*.db") if _has_tables(path)})
    if _is_sqlite(settings.database_url.get_secret_value()):
        return sorted(named)  # one file for all does not say whose it is
    database = Database(settings.database_url.get_secret_value(), service="eventplat", clock=clock, pool_size=1)
    try:
        async with database.transaction(read_only=True) as connection:
            schemas = [str(row.name) for row in await connection.execute(_SCHEMAS)]
    finally:
        await database.close()
    return sorted(named | {schema.replace("_", "-") for schema in schemas})  # a service's name has no other sign


def _is_sqlite(url: str) -> bool:
    return url.startswith("sqlite")


def _is_there(url: str) -> bool:
    return _has_tables(Path(url.partition("://")[2].removeprefix("/")))


def _has_tables(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            return connection.execute(_TABLE).fetchone() is not None
        finally:
            connection.close()
    except sqlite3.DatabaseError:  # some other file
        return False
