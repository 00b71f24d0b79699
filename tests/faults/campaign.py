"""The fault campaign: every process killed at every failpoint and at random moments, servers restarted. `make campaign-faults`.

    python -m tests.faults.campaign [--orders 500] [--only TEXT] [--kind local|embedded]

Prints a line a run and ends with 1 if any failed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

from tests.faults.books import Fetch, of_files, of_server
from tests.faults.crash import Fault, Report, run
from tests.faults.stack import SERVICES, Kind, Stack
from tests.servers import PostgresServer, RabbitServer

RETRY = "consumer.mid_handler=raise@9"   # makes an attempt fail, so that what follows a failed attempt is reached
TERM_S = 9.0                             # longer than a process's term of 6 s: what it owned goes to others
STEP_S = 34.0                            # longer than a step's timeout of 30 s: its timer fires

CONSUMER = ("consumer.received", "consumer.after_claim", "consumer.mid_handler", "consumer.before_commit", "consumer.after_commit",
            "consumer.after_ack")  # fmt: skip
DISPATCH = ("dispatch.before_publish", "dispatch.after_publish", "dispatch.after_confirm", "dispatch.after_settle")
PENDING = ("pending.before_record", "pending.after_record", "pending.after_count", "pending.before_commit")
SAGA = ("saga.before_commit", "saga.after_commit")
REPLY = ("reply.before_publish", "reply.after_publish")
GATEWAY = ("gateway.before_publish", "gateway.after_publish", "gateway.before_response")
EMBEDDED = ("embedded.before_journal", "embedded.after_journal")
SENDERS = ("stock", "payments", "shipments")      # beside orders; notifications sends nothing
ADOPTED = ("dispatch.before_publish=kill@20", "relay.claimed=kill")   # dies with rows to send, and again when it finds them


def faults(kind: Kind) -> Iterator[Fault]:
    """Every fault of the campaign, on one kind of stack."""
    if kind == "embedded":
        yield Fault("embedded")
        for point in (*CONSUMER, *DISPATCH, *SAGA, *GATEWAY, *EMBEDDED):
            yield Fault("embedded", (f"{point}=kill@150",))
        yield from (Fault("embedded", (f"{point}=kill@40",)) for point in REPLY)   # answers leave several at a time
        yield Fault("embedded", ("saga.before_undo=kill@3",))
        yield from (Fault("embedded", (f"{RETRY};{point}=kill",)) for point in PENDING)
        yield Fault("embedded", ADOPTED)
        yield Fault("embedded", ("saga.timer_claimed=kill",), pauses="embedded", pause_s=STEP_S)
        return
    first, *rest = SERVICES
    others = tuple(rest)    # each service dies at each point, all in one day: they fall one after another as their counts are reached
    yield from (Fault(name) for name in ("gateway", *SERVICES))
    yield Fault("rabbitmq")
    yield Fault("postgres")
    yield from (Fault(first, (f"{point}=kill@40",), others) for point in CONSUMER)
    yield from (Fault("orders", (f"{point}=kill@40",)) for point in (*SAGA, *REPLY))
    yield from (Fault("orders", (f"{point}=kill@40",), SENDERS) for point in DISPATCH)
    # these two answer the gateway only while the shop opens; shipments and notifications never do
    yield from (Fault("stock", (f"{point}=kill@3",), ("payments",), opening=True) for point in REPLY)
    yield Fault("stock", ("saga.before_undo=kill@3",))
    yield from (Fault("stock", (f"{RETRY};{point}=kill",), ("notifications",)) for point in PENDING)
    yield from (Fault("gateway", (f"{point}=kill@60",)) for point in GATEWAY)
    yield Fault("orders", ADOPTED, SENDERS)
    yield Fault("orders", ("saga.timer_claimed=kill",), pauses="payments", pause_s=STEP_S)
    yield Fault("orders", pauses="orders", pause_s=TERM_S, twin=True)


async def campaign(kinds: list[Kind], orders: int, only: str) -> list[Report]:
    """Run them all, each kind on one stack."""
    reports: list[Report] = []
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="eventplat-faults-") as folder:
            if kind == "embedded":
                reports += await _on(kind, Path(folder), {}, of_files(Path(folder) / "data"), {}, orders, only)
                continue
            rabbitmq, postgres = RabbitServer(), PostgresServer()
            rabbitmq.start()
            postgres.start()
            try:
                url = postgres.create_database("shop")
                environment = {"EVENTPLAT_PROFILE": "dev", "EVENTPLAT_BROKER_URL": rabbitmq.url, "EVENTPLAT_DATABASE_URL": url}
                strikes: dict[str, Callable[[], Awaitable[None]]] = {
                    "rabbitmq": partial(asyncio.to_thread, restart, rabbitmq),
                    "postgres": partial(asyncio.to_thread, restart, postgres),
                }
                reports += await _on(kind, Path(folder), environment, of_server(postgres, "shop"), strikes, orders, only)
            finally:
                for server in (rabbitmq, postgres):
                    server.stop()
                    server.remove()
    return reports


async def _on(
    kind: Kind, folder: Path, environment: dict[str, str], fetch: Fetch, strikes: dict[str, Callable[[], Awaitable[None]]], orders: int,
    only: str,
) -> list[Report]:  # fmt: skip
    shared = {"EVENTPLAT_OPERATION_KEY": "campaign", "EVENTPLAT_LOG_LEVEL": "warning", **environment}
    reports = []
    async with Stack(kind, folder, shared) as stack:
        for seed, fault in enumerate(faults(kind), start=1):
            if only not in str(fault):
                continue
            try:
                report = await run(stack, fetch, fault, orders=orders, seed=seed, strike=strikes.get(fault.victim))
            except Exception as error:  # one run's trouble is its line: the others still run
                report = Report(fault, orders, wrong=[f"{type(error).__name__}: {error}"])
            reports.append(report)
            print(f"{kind:<8} {report.line()}", flush=True)  # noqa: T201
    return reports


def restart(server: RabbitServer | PostgresServer) -> None:
    """Kill a server the hard way and start it again."""
    server.kill()
    server.start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=500)
    parser.add_argument("--only", default="", help="faults whose line contains this")
    parser.add_argument("--kind", choices=("local", "embedded"), action="append")
    given = parser.parse_args()
    began = time.monotonic()
    reports = asyncio.run(campaign(given.kind or ["embedded", "local"], given.orders, given.only))
    failed = sum(bool(report.wrong) for report in reports)
    print(f"{len(reports) - failed} of {len(reports)} runs held, {time.monotonic() - began:,.0f} s")  # noqa: T201
    sys.exit(1 if failed or not reports else 0)


if __name__ == "__main__":
    main()
