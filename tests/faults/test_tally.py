"""The campaigns' audit sees what is lost, doubled, invented, out of order or left behind."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.tally import Tally
from tests.servers import shared_postgres

TABLES = """
    CREATE SCHEMA meter; CREATE SCHEMA ledger;
    CREATE TABLE meter.eventplat_event_log (id uuid PRIMARY KEY, type text, key text, seq bigint, body bytea);
    CREATE TABLE meter.eventplat_outbox (id uuid);
    CREATE TABLE ledger.eventplat_pending (handler text, state text);
    CREATE TABLE ledger.applied (id bigserial PRIMARY KEY, handler text, event_id text, source text, n bigint);
"""
ID = "00000000-0000-0000-0000-00000000000{}"
KINDS = {1: ("tick", "count"), 2: ("alarm", "follow"), 3: ("alarm", "follow"), 4: ("reading", "read")}


def committed(number: int, *, seq: int = 0) -> str:
    body = f'{{"source":"a","n":{number}}}'
    return (f"INSERT INTO meter.eventplat_event_log VALUES ('{ID.format(number)}', 'meter.{KINDS[number][0]}.v1', 'a', {seq or number}, "
            f"convert_to('{body}', 'UTF8'));")  # fmt: skip


def applied(number: int) -> str:
    handler = KINDS.get(number, ("", "count"))[1]
    return f"INSERT INTO ledger.applied (handler, event_id, source, n) VALUES ('{handler}', '{ID.format(number)}', 'a', {number});"


def found(*statements: str) -> list[str]:
    server = shared_postgres()
    database = server.create_database().rpartition("/")[2]
    server.sql(TABLES + "".join(statements), database)
    return asyncio.run(Tally(server, database).wrong())


RIGHT = (committed(1), committed(2), committed(3), committed(4))


def test_each_event_once_by_its_handler_and_in_order_is_right() -> None:
    assert found(*RIGHT, applied(4), applied(2), applied(3), applied(1)) == []


@pytest.mark.parametrize(("statements", "said"), [
    ((*RIGHT, applied(1), applied(2), applied(3)), f"1 events are lost: read {ID.format(4)}"),
    ((committed(1), applied(1), applied(1)), f"1 events were applied twice: count {ID.format(1)}"),
    ((committed(1), applied(1), applied(9)), f"1 events were applied that nobody committed: count {ID.format(9)}"),
    ((committed(2), committed(3), applied(3), applied(2)),
     f"1 events were applied before an earlier one of their source: {ID.format(2)}"),
    ((committed(2, seq=9), committed(3, seq=8), applied(2), applied(3)),
     f"1 events have another order in the log than their source gave them: {ID.format(2)}"),
    (("INSERT INTO ledger.eventplat_pending VALUES ('follow', 'held')",), "1 messages are dead or wait: follow held"),
    ((f"INSERT INTO meter.eventplat_outbox VALUES ('{ID.format(1)}')",), f"1 rows were not sent: {ID.format(1)}"),
], ids=["lost", "twice", "invented", "order", "log", "pending", "unsent"])  # fmt: skip
def test_what_is_wrong_is_named(statements: tuple[str, ...], said: str) -> None:
    assert found(*statements) == [said]
