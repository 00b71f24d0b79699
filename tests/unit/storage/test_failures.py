"""Failures: what a database error says about the work that met it."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from eventplat.errors import CommitUnknown, DatabaseUnavailable
from eventplat.storage.failures import is_driver_outage, is_refused_write, is_transient, is_unavailable, sqlstate


class Postgres(Exception):
    """As asyncpg raises it."""

    def __init__(self, state: str | None) -> None:
        super().__init__(state)
        self.sqlstate = state


def sqlite_error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("x")
    error.sqlite_errorcode = code
    return error


def wrapped(error: Exception, *, is_lost: bool = False) -> DBAPIError:
    """As SQLAlchemy raises it."""
    return OperationalError("SELECT 1", {}, error, connection_invalidated=is_lost)


AWAY = ["25006", "57P01", "57P02", "57P03", "53300", "08000", "08003", "08006", "08001", "08P01"]
AGAIN = ["40001", "40P01", "55P03", "53100", "53200", "58030"]
OURS = ["23505", "23503", "42601", "42P01", "22P02", "25P02", "57014", "XX000", "", None]


@pytest.mark.parametrize("state", AWAY)
def test_a_server_that_is_away_or_takes_no_writes_is_unavailable_and_no_attempt(state: str) -> None:
    for error in (Postgres(state), wrapped(Postgres(state))):
        assert is_unavailable(error)
        assert is_transient(error)


@pytest.mark.parametrize("state", AGAIN)
def test_what_may_succeed_when_repeated_is_no_attempt_and_no_outage(state: str) -> None:
    for error in (Postgres(state), wrapped(Postgres(state))):
        assert not is_unavailable(error)
        assert is_transient(error)


@pytest.mark.parametrize("state", OURS)
def test_anything_else_is_the_works_own_fault(state: str | None) -> None:
    for error in (Postgres(state), wrapped(Postgres(state))):
        assert not is_unavailable(error)
        assert not is_transient(error)
        assert sqlstate(error) == (state or "")


@pytest.mark.parametrize(
    "code",
    [sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR,
     sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY_SNAPSHOT, sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_READONLY_DBMOVED],
)  # fmt: skip
def test_a_sqlite_file_that_cannot_be_used_now_is_unavailable_also_by_its_extended_code(code: int) -> None:
    assert is_unavailable(sqlite_error(code))
    assert is_transient(wrapped(sqlite_error(code)))


@pytest.mark.parametrize("code", [sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT])
def test_a_statement_that_sqlite_refuses_is_the_works_own_fault(code: int) -> None:
    assert not is_transient(wrapped(sqlite_error(code)))
    assert not is_transient(sqlite3.OperationalError("without a code"))


@pytest.mark.parametrize("error", [DatabaseUnavailable("x"), CommitUnknown("x"), PoolTimeout("x"), wrapped(ValueError(), is_lost=True)])
def test_no_connection_and_an_unknown_commit_are_no_attempt(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize("error", [ValueError("x"), OSError("x"), ConnectionResetError("x"), TimeoutError("x"), Exception("57P01")])
def test_an_error_of_a_handler_is_an_attempt_whatever_it_resembles(error: Exception) -> None:
    assert not is_transient(error)


@pytest.mark.parametrize("error", [OSError("x"), ConnectionResetError("x"), TimeoutError("x"), Postgres("57P01")])
def test_the_same_from_a_driver_is_an_outage(error: Exception) -> None:
    assert is_driver_outage(error)
    assert not is_driver_outage(ValueError("x"))


@pytest.mark.parametrize(
    ("error", "is_refused"),
    [(Postgres("25006"), True), (sqlite_error(sqlite3.SQLITE_READONLY), True), (sqlite_error(sqlite3.SQLITE_READONLY_DBMOVED), True),
     (Postgres("57P01"), False), (sqlite_error(sqlite3.SQLITE_BUSY), False), (ValueError(), False)],
)  # fmt: skip
def test_a_refused_write_is_told_from_an_outage(error: Exception, is_refused: bool) -> None:
    assert is_refused_write(error) is is_refused
