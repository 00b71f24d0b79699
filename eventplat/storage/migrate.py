"""Migrate: bring a service's database to the tables of this release.

Three kinds of tables share a schema (PostgreSQL) or file (SQLite), each with its own bookkeeping:

platform   `eventplat_…`, by the migrations shipped in this package, version in `eventplat_version`
service    its own, by an Alembic branch in the application's `migrations/`, version in `alembic_version`
sketch     its own, made from `Service(tables=…)` while it has no branch yet. The first migration takes them over,
           if it makes the same tables

Every step is one transaction behind a lock (an advisory lock; SQLite's write lock), so that many processes may
start at once: the first migrates, the others find it done. The platform's migrations only add within a
release, so that the previous release runs on the next one's tables: check refuses older tables, never newer.

Next: storage.migrations
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, MetaData, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from eventplat.errors import SchemaOutdated, SettingsError
from eventplat.storage.database import Database
from eventplat.storage.failures import sqlstate
from eventplat.storage.postgres import TAKE_ROLE, role_of, schema_of
from eventplat.storage.tables import VERSION, VERSION_TABLE

if TYPE_CHECKING:
    from alembic.config import Config

SERVICE_VERSION_TABLE = "alembic_version"
ALREADY_THERE = frozenset({"42710", "23505"})  # duplicate role: another database of the cluster made it meanwhile

_MIGRATIONS = Path(__file__).parent / "migrations"

logger = logging.getLogger(__name__)


async def upgrade(database: Database, *, create: bool = True, login: str | None = None) -> None:
    """Bring the platform's tables to this release; does nothing when they are there.

    Args:
        database: On PostgreSQL with a URL whose login may create schemas and roles, unless both exist.
        create: Make the service's schema, and its role if the login may create roles, when missing.
        login: The role that running services log in as, when it is another than this URL's: it becomes a member.

    Raises:
        SchemaOutdated: The schema is missing and `create` is False.
        DatabaseUnavailable: Nothing was changed.
    """
    if database.dialect == "postgresql":
        await _prepare_schema(database, create, login)
    if (await _version(database) or "") >= VERSION:
        return
    async with database.transaction() as connection:
        await _lock(database, connection)
        await connection.run_sync(_run_alembic, _MIGRATIONS, "heads", VERSION_TABLE)
    logger.info("tables of %s are at %s", database.service, VERSION)


async def check(database: Database) -> None:
    """Return if the platform's tables are at least those of this release.

    Raises:
        SchemaOutdated: They are older, or not there.
        DatabaseUnavailable: Cannot tell.
    """
    found = await _version(database)
    if found is None or found < VERSION:
        raise SchemaOutdated(f"{database.service}: the tables are at {found or 'nothing'}, this release needs {VERSION}")


async def create_tables(database: Database, metadata: MetaData) -> None:
    """Create the tables of `metadata` that are missing; changes none that is there."""
    async with database.transaction() as connection:
        await _lock(database, connection)
        await connection.run_sync(metadata.create_all)


def has_branch(script_location: Path, branch: str) -> bool:
    """Whether the application's folder of migrations is there and has this branch."""
    return (script_location / "env.py").is_file() and branch in _branches(script_location)


async def upgrade_service(database: Database, script_location: Path, branch: str, tables: MetaData | None = None) -> None:
    """Bring a service's own tables to the head of its Alembic branch.

    Args:
        database: The service's, after `upgrade`.
        script_location: The application's folder of migrations, with `env.py` and `versions/`.
        branch: The branch label, as a rule the service's name.
        tables: What the service declares: where just these stand and no migration has run, they count as migrated.

    Raises:
        SettingsError: There is no such folder or branch; the error names the branches there are. Or tables were made
            without migrations and are others than the branch makes.
    """
    from alembic.util.exc import CommandError  # noqa: PLC0415 - only migrations pay for importing Alembic

    try:
        branches = _branches(script_location)
    except CommandError:
        raise SettingsError(f"there is no folder {script_location}/ with the migrations of {database.service}") from None
    if branch not in branches:
        raise SettingsError(f"{script_location} has no branch {branch!r}, only {', '.join(sorted(branches)) or 'none'}")
    async with database.transaction() as connection:
        await _lock(database, connection)
        is_sketch = tables is not None and await connection.run_sync(_is_sketch, tables)
        await connection.run_sync(_run_alembic, script_location, f"{branch}@head", SERVICE_VERSION_TABLE, stamp=is_sketch)


def run_in_alembic(target_metadata: MetaData | None = None) -> None:
    """What an `env.py` does: migrate on the connection that `upgrade` or `upgrade_service` opened.

    Raises:
        SettingsError: Called by Alembic's own command line, which does not know which service is meant.
    """
    from alembic import context  # noqa: PLC0415 - only migrations pay for importing Alembic

    attributes = context.config.attributes
    if "connection" not in attributes:
        raise SettingsError("run migrations by `eventplat db upgrade`: the connection decides whose tables they are")
    context.configure(
        connection=attributes["connection"], version_table=attributes["version_table"], target_metadata=target_metadata,
        render_as_batch=True,  # SQLite alters a table by copying it
    )
    with context.begin_transaction():  # joins the running one
        context.run_migrations()


def _run_alembic(connection: Connection, location: Path, target: str, version_table: str, *, stamp: bool = False) -> None:
    from alembic import command  # noqa: PLC0415

    config = _config(location, version_table)
    config.attributes["connection"] = connection
    (command.stamp if stamp else command.upgrade)(config, target)


def _branches(location: Path) -> set[str]:
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - only migrations pay for importing Alembic

    script = ScriptDirectory.from_config(_config(location, SERVICE_VERSION_TABLE))
    return {label for revision in script.walk_revisions() for label in revision.branch_labels}


def _is_sketch(connection: Connection, tables: MetaData) -> bool:
    """Whether the tables stand as declared and no migration has made them."""
    from alembic.autogenerate import compare_metadata  # noqa: PLC0415
    from alembic.migration import MigrationContext  # noqa: PLC0415

    names = {table.name for table in tables.tables.values()}
    options = {"version_table": SERVICE_VERSION_TABLE, "include_name": lambda name, kind, _: kind != "table" or name in names}
    context = MigrationContext.configure(connection, opts=options)
    if context.get_current_heads() or not names & set(inspect(connection).get_table_names()):
        return False
    if different := compare_metadata(context, tables):
        raise SettingsError(
            f"tables made without migrations stand here and are not those of the code ({len(different)} differences). "
            "Remove them, or the data directory, and let the migrations make them"
        )
    return True


def _config(location: Path, version_table: str) -> Config:
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(location).replace("%", "%%"))
    config.set_main_option("recursive_version_locations", "true")  # versions/<service>/
    config.set_main_option("path_separator", "os")
    config.attributes["version_table"] = version_table
    return config


async def _version(database: Database) -> str | None:
    async with database.transaction(read_only=True) as connection:
        if not await connection.run_sync(lambda sync: inspect(sync).has_table(VERSION_TABLE)):
            return None
        return (await connection.exec_driver_sql(f"SELECT max(version_num) FROM {VERSION_TABLE}")).scalar()  # noqa: S608


async def _lock(database: Database, connection: AsyncConnection) -> None:
    """Be the only one who changes the tables, until the transaction ends; a migration may take long."""
    if database.dialect == "postgresql":
        await connection.execute(text(TAKE_ROLE.format(role=role_of(database.service), is_local="true")))  # it may be older than the role
        await connection.execute(text("SET LOCAL statement_timeout = 0"))
        await connection.execute(text("SET LOCAL lock_timeout = '60s'"))
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('eventplat'), hashtext(current_schema()))"))


# --- PostgreSQL: schema and role ------------------------------------------------------------------


async def _prepare_schema(database: Database, create: bool, login: str | None) -> None:
    schema, role = schema_of(database.service), role_of(database.service)
    async with database.transaction(read_only=True) as connection:
        found = text("SELECT to_regnamespace(:name) IS NOT NULL, current_user")
        exists, user = (await connection.execute(found, {"name": f'"{schema}"'})).one()
    if exists and login is None:
        if user != role:  # made meanwhile by another process: this connection is older than the role
            database.renew()
        return
    if not create:
        raise SchemaOutdated(f'schema "{schema}" does not exist')
    async with database.transaction() as connection:
        await connection.execute(text("SET LOCAL ROLE NONE"))  # the login itself, not the role of a running service
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('eventplat'), 0)"))
        owner = f'AUTHORIZATION "{role}"' if await _prepare_role(connection, role, login) else ""
        await connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{schema}" {owner}'))
    database.renew()  # a connection takes the role when it is opened


async def _prepare_role(connection: AsyncConnection, role: str, login: str | None) -> bool:
    """Whether the role is there and this login is its member; made if the login may."""
    names = {"role": role}
    exists = (await connection.execute(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), names)).scalar()
    if exists is None:
        allowed = text("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = session_user")
        if not (await connection.execute(allowed)).scalar():
            logger.warning("this login may not create roles: the tables will belong to the login itself, not to %s", role)
            return False
        try:
            async with connection.begin_nested():
                await connection.execute(text(f'CREATE ROLE "{role}" NOLOGIN'))
        except DBAPIError as error:
            if sqlstate(error) not in ALREADY_THERE:
                raise
    is_member = text("SELECT pg_has_role(session_user, :role, 'MEMBER')")
    if not (await connection.execute(is_member, names)).scalar():
        await connection.execute(text(f'GRANT "{role}" TO SESSION_USER'))
    if login is not None:
        await connection.execute(text(f'GRANT "{role}" TO "{login}"'))
    return True
