"""Books: what the databases say, read by plain SQL beside the platform, and what must be true of it.

No code of eventplat or of the services is used here, so that a mistake there cannot hide itself.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tests.servers import PostgresServer

Fetch = Callable[[str, str], list[Any]]

SERVICES = ("orders", "stock", "payments", "shipments", "notifications")
LETTERS = {                       # by what became of the order; what notifications writes of it
    "completed": r"Thank you for order (\S+) over [0-9.]+ GBP\.",
    "refused": r"We could not take order (\S+): .+\.",
    "refunded": r"[0-9.]+ GBP of order (\S+) are back on your account\.",
}


def of_files(folder: Path) -> Fetch:
    """Reads the embedded mode's SQLite files."""

    def fetch(service: str, sql: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(f"file:{folder / service}.db?mode=ro", uri=True, timeout=5)
        try:
            return [tuple(row) for row in connection.execute(sql)]
        finally:
            connection.close()

    return fetch


def of_server(server: PostgresServer, database: str) -> Fetch:
    """Reads a PostgreSQL database through psql, the service's schema first."""

    def fetch(service: str, sql: str) -> list[tuple[Any, ...]]:
        printed = server.sql(f"SET search_path TO {service}; SELECT row_to_json(rows) FROM ({sql}) AS rows", database)
        lines = [line for line in printed.splitlines() if line and line != "SET"]
        return [tuple(json.loads(line, object_pairs_hook=_values)) for line in lines]  # as JSON: the order "536365" is no number

    return fetch


def _values(pairs: Sequence[tuple[str, Any]]) -> list[Any]:
    return [value for _, value in pairs]


def audit(fetch: Fetch, told: Mapping[str, bool]) -> list[str]:
    """What is wrong: nothing, or sentences that name the first few.

    Args:
        told: By order id, whether its client was told that it was completed (and not refunded later).
    """
    return [
        *_orders(fetch, told),
        *_stock(fetch),
        *_money(fetch),
        *_letters(fetch),
        *_settled(fetch),
    ]


def everything(fetch: Fetch, services: Sequence[str], kind: Literal["embedded", "local"]) -> dict[str, list[str]]:
    """All rows of all tables, by table as "stock.item"; but not the list of processes, which every heartbeat changes."""
    tables = {
        "embedded": "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
        "local": "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()",
    }[kind]
    return {
        f"{service}.{table}": sorted(map(repr, fetch(service, f"SELECT * FROM {table}")))
        for service in services
        for (table,) in fetch(service, tables)
        if table != "eventplat_process"
    }


def at_rest(fetch: Fetch) -> bool:
    """Whether nothing is left to send, to retry or to end, and every letter that is due is written: events too have arrived."""
    return not _leftovers(fetch, SERVICES) and not _due(fetch) - _written(fetch)


def _orders(fetch: Fetch, told: Mapping[str, bool]) -> list[str]:
    status: dict[str, str] = dict(fetch("orders", "SELECT order_id, status FROM placed_order"))
    wrong = [id_ for id_, completed in told.items() if status.get(id_, "refused") != ("completed" if completed else "refused")]
    unfinished = [id_ for id_, state in status.items() if state not in ("completed", "refused")]
    return [*_said("clients were told something else than the book says", wrong), *_said("orders are not finished", unfinished)]


def _stock(fetch: Fetch) -> list[str]:
    bought: defaultdict[tuple[str, str], int] = defaultdict(int)
    for order_id, sku, quantity in fetch(
        "orders",
        "SELECT l.order_id, l.sku, l.quantity - l.refunded FROM order_line l JOIN placed_order o ON o.order_id = l.order_id"
        " WHERE o.status = 'completed'",
    ):
        bought[order_id, sku] += quantity
    taken: defaultdict[tuple[str, str], int] = defaultdict(int)
    for order_id, sku, quantity in fetch("stock", "SELECT order_id, sku, -quantity FROM movement WHERE order_id IS NOT NULL"):
        taken[order_id, sku] += quantity
    services = {row[0] for row in fetch("stock", "SELECT sku FROM item WHERE NOT is_stocked")}  # sold, and on no shelf
    bought = defaultdict(int, {key: count for key, count in bought.items() if key[1] not in services})
    wrong = [f"{key}: bought {bought[key]}, taken {taken[key]}" for key in bought.keys() | taken.keys() if bought[key] != taken[key]]
    shelves: dict[str, int] = dict(fetch("stock", "SELECT sku, available FROM item"))
    moved: dict[str, int] = dict(fetch("stock", "SELECT sku, SUM(quantity) FROM movement GROUP BY sku"))
    odd = [f"{sku}: {left} on the shelf, {moved.get(sku, 0)} moved" for sku, left in shelves.items() if left != moved.get(sku, 0)]
    negative = [sku for sku, available in shelves.items() if available < 0]
    return [*_said("orders took other goods than they bought", wrong), *_said("shelves disagree with their movements", odd),
            *_said("shelves are negative", negative)]  # fmt: skip


def _money(fetch: Fetch) -> list[str]:
    due: defaultdict[str, int] = defaultdict(int)
    for order_id, total in fetch(
        "orders",
        "SELECT l.order_id, SUM((l.quantity - l.refunded) * l.unit_price) FROM order_line l"
        " JOIN placed_order o ON o.order_id = l.order_id WHERE o.status = 'completed' GROUP BY l.order_id",
    ):
        due[order_id] = int(total)
    paid: defaultdict[str, int] = defaultdict(int)
    for order_id, amount in fetch("payments", "SELECT order_id, SUM(-amount) FROM entry WHERE order_id IS NOT NULL GROUP BY order_id"):
        paid[order_id] = int(amount)
    wrong = [f"{id_}: cost {due[id_]}, paid {paid[id_]}" for id_ in due.keys() | paid.keys() if due[id_] != paid[id_]]
    balances: dict[str, int] = dict(fetch("payments", "SELECT account_id, balance FROM account"))
    booked = {id_: int(amount) for id_, amount in fetch("payments", "SELECT account_id, SUM(amount) FROM entry GROUP BY account_id")}
    odd = [id_ for id_, balance in balances.items() if balance != booked.get(id_, 0) or balance < 0]
    return [*_said("orders paid something else than they cost", wrong), *_said("accounts disagree with their entries", odd)]


def _letters(fetch: Fetch) -> list[str]:
    due, written = _due(fetch), _written(fetch)
    return [*_said("orders have no letter", _named(due - written)), *_said("letters are one too many", _named(written - due))]


def _due(fetch: Fetch) -> Counter[tuple[str, str]]:
    """One letter for each order that was completed or refused, and for each refund: what, and the order's id."""
    ended = fetch("orders", "SELECT status, order_id FROM placed_order WHERE status IN ('completed', 'refused')")
    refunds = fetch("orders", "SELECT 'refunded', order_id FROM refund WHERE status = 'completed'")
    return Counter((str(what), str(order_id)) for what, order_id in [*ended, *refunds])


def _written(fetch: Fetch) -> Counter[tuple[str, str]]:
    return Counter(_of(str(written)) for (written,) in fetch("notifications", "SELECT written FROM letter"))


def _of(written: str) -> tuple[str, str]:
    for what, pattern in LETTERS.items():
        if found := re.fullmatch(pattern, written):
            return what, found[1]
    return "unknown", written


def _named(letters: Counter[tuple[str, str]]) -> list[str]:
    return sorted(f"{what} {order_id}" for what, order_id in letters.elements())


def _settled(fetch: Fetch) -> list[str]:
    found = []
    twice = fetch("orders", "SELECT order_id FROM order_step WHERE what = 'completed' GROUP BY order_id HAVING COUNT(*) > 1")
    found += _said("orders were completed twice", [row[0] for row in twice])
    shipped = fetch("shipments", "SELECT order_id FROM shipment GROUP BY order_id HAVING COUNT(*) > 1")
    found += _said("orders were shipped twice", [row[0] for row in shipped])
    dead = [row[0] for service in SERVICES
            for row in fetch(service, "SELECT handler FROM eventplat_pending WHERE state = 'dead'")]  # fmt: skip
    return [*found, *_said("messages are dead", dead), *_leftovers(fetch, SERVICES)]


def _leftovers(fetch: Fetch, services: Sequence[str]) -> list[str]:
    found = []
    for service in services:
        found += _said(f"rows of {service} wait to be sent", [row[0] for row in fetch(service, "SELECT id FROM eventplat_outbox")])
        waiting = fetch(service, "SELECT handler FROM eventplat_pending WHERE state <> 'dead'")
        found += _said(f"messages of {service} are not settled", [row[0] for row in waiting])
        open_ = fetch(service, "SELECT id, state FROM eventplat_saga WHERE ended_us IS NULL")
        found += _said(f"sagas of {service} have not ended", [f"{row[0]} {row[1]}" for row in open_])
    return found


def _said(what: str, which: Sequence[str]) -> list[str]:
    return [f"{len(which)} {what}: {', '.join(map(str, which[:5]))}"] if which else []
