"""Alembic's door to the services' own tables: one branch per service, run in that service's database.

`eventplat db upgrade` gives the connection, whose schema (or file) is the service's; the version table stands
there as well. A service's first migration names its branch: `branch_labels = ("orders",)`, `down_revision = None`,
in `versions/orders/`; the next ones follow by `down_revision`.
"""

from eventplat.storage.migrate import run_in_alembic

run_in_alembic()
