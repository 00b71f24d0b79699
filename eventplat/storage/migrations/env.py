"""Alembic's door to the platform's migrations; `storage.migrate` opens it."""

from eventplat.storage.migrate import run_in_alembic

run_in_alembic()
