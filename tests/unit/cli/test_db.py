"""`eventplat db upgrade`: a database for each service, told without its password; idempotent."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tests.unit.cli.terminal import Terminal

TABLES = '\nfrom sqlalchemy import MetaData\nshop.tables = MetaData()\n'


def test_it_makes_the_tables_and_may_be_run_again(terminal: Terminal, app: str, tmp_path: Path) -> None:
    first = terminal.type("db", "upgrade", app)
    second = terminal.type("db", "upgrade", app)

    assert (first.code, first.err) == (0, "")
    assert first.out == f"shop: up to date  sqlite:///{tmp_path.resolve() / '.eventplat' / 'shop.db'}\n"
    assert second == first
    with sqlite3.connect(tmp_path / ".eventplat" / "shop.db") as database:
        names = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    database.close()
    assert {"eventplat_inbox", "eventplat_outbox", "eventplat_version"} <= names


def test_tables_without_their_migrations_are_a_mistake_that_names_the_folder(terminal: Terminal, app: str, tmp_path: Path) -> None:
    with (tmp_path / app).open("a") as file:
        file.write(TABLES)

    said = terminal.type("db", "upgrade", app)

    assert said.code == 1
    assert said.err.startswith("eventplat: there is no folder migrations/ with the migrations of shop")
    assert said.err.endswith("[EP900]\n")


def test_a_folder_that_is_a_file_is_a_wrong_word(terminal: Terminal, app: str) -> None:
    said = terminal.type("db", "upgrade", "--migrations", app, app)

    assert said.code == 2
    assert "is a file" in said.err
