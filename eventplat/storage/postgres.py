"""PostgreSQL: how an engine for one service connects.

Schema   every service has a schema of its own, chosen through search_path; so services share a database
         and never a table.
Role     the login is shared, the schema's owner is a NOLOGIN role per service. A session takes that role when
         it exists and the login is its member, so that one service's SQL cannot read another's tables.
         It is taken by a statement at connect: as a startup setting a missing role would refuse the connection.
Limits   a lock is waited for 3 s, a statement runs 30 s, an open transaction idles 60 s, or as long as the service's
         slowest handler may take: what a lost process held is free after that, and no waiter outlives its delivery.
Primary  a connection is kept only to a server that takes writes, so after a failover the pool, once
         invalidated, fills with connections to the new primary (several hosts in the URL).

Next: storage.database
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

CONNECT_S = 5.0
POOL_WAIT_S = 10.0
RECYCLE_S = 300        # a connection's age; drops what a proxy or firewall forgot
LOCK_MS, STATEMENT_MS, IDLE_S = 3_000, 30_000, 60.0

TAKE_ROLE = """
    SELECT set_config('role', rolname, {is_local}) FROM pg_catalog.pg_roles
    WHERE rolname = '{role}' AND pg_catalog.pg_has_role(session_user, oid, 'MEMBER')
"""


def schema_of(service: str) -> str:
    """The schema of a service: "order-book" lives in `order_book`."""
    return service.replace("-", "_")


def role_of(service: str) -> str:
    """The NOLOGIN role that owns the service's schema."""
    return f"eventplat_{schema_of(service)}"


def create_engine(url: URL, *, service: str, pool_size: int, idle_s: float, echo: bool) -> AsyncEngine:
    """An engine whose sessions act in the service's schema, as the service's role."""
    query = dict(url.query)
    arguments: dict[str, Any] = {
        "timeout": CONNECT_S,
        "command_timeout": STATEMENT_MS / 1_000 + 5,  # the server's own limit answers first, unless it is gone
        "target_session_attrs": query.pop("target_session_attrs", "read-write"),
        "server_settings": {
            "application_name": f"eventplat:{service}",
            "search_path": f'"{schema_of(service)}"',
            "lock_timeout": str(LOCK_MS),
            "statement_timeout": str(STATEMENT_MS),
            "idle_in_transaction_session_timeout": str(int(idle_s * 1_000)),
        },
    }
    if "sslmode" in query:  # libpq's word, which asyncpg spells `ssl`
        arguments["ssl"] = query.pop("sslmode")
    engine = create_async_engine(
        url.set(drivername="postgresql+asyncpg", query=query),
        connect_args=arguments, echo=echo, hide_parameters=True,
        pool_size=pool_size, max_overflow=0, pool_timeout=POOL_WAIT_S, pool_recycle=RECYCLE_S,
    )
    event.listen(engine.sync_engine, "connect", _take_role(role_of(service)))
    return engine


def _take_role(role: str) -> Any:
    def take(dbapi_connection: Any, _record: object) -> None:
        dbapi_connection.run_async(lambda connection: connection.execute(TAKE_ROLE.format(role=role, is_local="false")))

    return take
