"""Failures: what a database error says about the work that met it. Pure.

Unavailable  the database cannot be reached or takes no writes now: the pool is replaced, the work comes again
Transient    the same work may succeed when repeated as it is: it does not count as an attempt
Unknown      lost while COMMIT was under way: it may have happened
Idle         the server ended a transaction that stood open for too long: whoever let it stand will do so again
Everything else is the work's own fault and counts.

Source: PostgreSQL, Appendix A (SQLSTATE); SQLite result codes.
"""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from eventplat.errors import CommitUnknown, DatabaseUnavailable

READ_ONLY = "25006"  # a demoted primary: SELECT 1 works on, every write fails (gpustack#6107: for three days)
IDLE_TOO_LONG = "25P03"  # idle_in_transaction_session_timeout

_UNAVAILABLE = frozenset({
    READ_ONLY,
    "57P01", "57P02", "57P03",     # shutting down, crashed, starting
    "53300",                       # too many connections
})
_CONFLICTS = frozenset({
    "40001", "40P01", "55P03",     # serialization failure, deadlock, lock timeout
})
_TRANSIENT = _CONFLICTS | frozenset({
    "53100", "53200", "58030",     # disk full, out of memory, I/O error: the server's trouble
})
_SQLITE_UNAVAILABLE = frozenset({
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
})


def is_transient(error: BaseException) -> bool:
    """Whether the failed work may be repeated as it is, and the failure is not an attempt."""
    if isinstance(error, (DatabaseUnavailable, CommitUnknown, PoolTimeout)):
        return True
    return is_unavailable(error) or sqlstate(error) in _TRANSIENT


def is_conflict(error: BaseException) -> bool:
    """Whether two transactions got in each other's way: a deadlock, a lock that was not to be had, a stale snapshot."""
    return sqlstate(error) in _CONFLICTS


def is_unavailable(error: BaseException) -> bool:
    """Whether the database is gone, going, or takes no writes; `error` comes from SQLAlchemy or the driver."""
    if sqlstate(error) == IDLE_TOO_LONG:
        return False
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or (error.orig is not None and is_unavailable(error.orig))
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_UNAVAILABLE
    state = sqlstate(error)
    return state in _UNAVAILABLE or state[:2] == "08"


def is_driver_outage(error: BaseException) -> bool:
    """Whether `error`, raised by a driver while it talked to the database, means that the link is gone.

    Only for errors that are known to come from the driver: elsewhere an OSError may be anybody's.
    """
    return isinstance(error, OSError) or is_unavailable(error)  # TimeoutError is an OSError


def is_refused_write(error: BaseException) -> bool:
    """Whether a write was refused because transaction, file or server are read-only."""
    return sqlstate(error) == READ_ONLY or getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY


def sqlstate(error: BaseException) -> str:
    """The SQLSTATE of a PostgreSQL error, empty for all others."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(cause, "sqlstate", None) or "")
