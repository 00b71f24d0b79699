"""Columns: what a table gives back is what was put in."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from sqlalchemy import Column, Connection, Table, create_engine, func, insert, select, text

from services.kernel.columns import SERIAL, Moment, Thousandths, new_metadata

metadata = new_metadata()
row = Table("row", metadata, Column("row_id", SERIAL, primary_key=True), Column("price", Thousandths), Column("at", Moment))


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        metadata.create_all(connection)
        yield connection
    engine.dispose()


def test_pounds_are_stored_as_whole_thousandths(connection: Connection) -> None:
    connection.execute(insert(row), [{"price": Decimal("0.125")}, {"price": Decimal("2.55")}])

    assert connection.execute(text("SELECT price FROM row ORDER BY row_id")).scalars().all() == [125, 2550]
    assert connection.execute(select(row.c.price).order_by(row.c.row_id)).scalars().all() == [Decimal("0.125"), Decimal("2.55")]


def test_a_sum_of_prices_is_exact(connection: Connection) -> None:
    connection.execute(insert(row), [{"price": Decimal("0.1")}] * 3)

    assert connection.execute(select(func.sum(row.c.price))).scalar_one() == Decimal("0.3")


def test_adding_in_the_database_keeps_the_unit(connection: Connection) -> None:
    connection.execute(insert(row).values(price=Decimal("1.5")))

    connection.execute(row.update().values(price=row.c.price + Decimal("0.25")))

    assert connection.execute(select(row.c.price)).scalar_one() == Decimal("1.75")


def test_a_moment_of_any_zone_comes_back_in_utc(connection: Connection) -> None:
    noon = datetime(2010, 12, 1, 12, tzinfo=timezone(timedelta(hours=2)))

    connection.execute(insert(row).values(at=noon))

    read = connection.execute(select(row.c.at)).scalar_one()
    assert read == noon
    assert read.tzinfo is UTC
