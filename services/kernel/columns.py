"""Column types: exact money and aware times, the same on PostgreSQL and SQLite."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, DateTime, Integer, MetaData
from sqlalchemy.types import TypeDecorator

from services.kernel.money import from_thousandths, thousandths

SERIAL = BigInteger().with_variant(Integer, "sqlite")
"""A growing primary key: SQLite counts only in INTEGER."""


class Thousandths(TypeDecorator[Decimal]):
    """Pounds as a Decimal in Python, thousandths of a pound as BIGINT in the table."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Any) -> int | None:
        return None if value is None else thousandths(value)

    def process_result_value(self, value: Any, dialect: Any) -> Decimal | None:
        return None if value is None else from_thousandths(int(value))  # PostgreSQL answers sum(bigint) as NUMERIC


class Moment(TypeDecorator[datetime]):
    """A point in time, UTC. SQLite keeps no zone, so it is given back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        return value if value is None or value.tzinfo is not None else value.replace(tzinfo=UTC)


def new_metadata() -> MetaData:
    """One service's tables, with constraints named alike, so that a migration can name them again."""
    return MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
