"""Tables: the one MetaData of the platform's own tables, and the columns they share.

A table is declared in the file that owns its rows (`transactions.inbox`, `sagas.store`); all of them
register here, under names that begin with `eventplat_`, because one PostgreSQL schema or SQLite file
holds a service's tables beside the platform's. The migrations in `storage/migrations` create them.

Times are BIGINT microseconds since 1970 on the database's clock; ids are UUIDs, text in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Column, ColumnElement, MetaData, SmallInteger, Uuid, any_, literal
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

platform = MetaData()

UUID = Uuid(as_uuid=False)
"""A message, command or event id: text in Python, 16 bytes in PostgreSQL, 32 characters in SQLite."""

VERSION = "0003"
"""The newest of the platform's migrations; a test holds it equal to the newest file."""

VERSION_TABLE = "eventplat_version"


def bucket() -> Column[int]:
    """The column `bucket`, 0..1023: where the row lives, and moves with its bucket."""
    return Column("bucket", SmallInteger, nullable=False)


def one_of(connection: AsyncConnection, column: Column[Any], values: Sequence[object]) -> ColumnElement[bool]:
    """The condition that `column` is one of `values`.

    On PostgreSQL the values are one array: the statement's text, and so what is prepared and kept of it, is the same for
    any number of them. An `IN` of its own length each time fills caches on both sides, and is planned anew.
    """
    if connection.dialect.name == "sqlite":
        return column.in_(values)
    return column == any_(literal(list(values), ARRAY(column.type)))


class now_us(FunctionElement[int]):  # noqa: N801 - reads as the SQL function it is
    """The database's clock in microseconds since 1970: moves on within a transaction."""

    type = BigInteger()
    name = "now_us"
    inherit_cache = True


@compiles(now_us, "postgresql")
def _now_us_postgresql(_element: now_us, _compiler: SQLCompiler, **_: Any) -> str:
    return "(extract(epoch from clock_timestamp()) * 1000000)::bigint"


@compiles(now_us, "sqlite")
def _now_us_sqlite(_element: now_us, _compiler: SQLCompiler, **_: Any) -> str:
    return "eventplat_now_us()"  # registered on every connection by storage.sqlite, reads the injected clock
