"""A sample of the fault campaign: some kills in the middle of a day, on both kinds of stack. All of them: `make campaign-faults`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.shops import opened
from tests.faults.campaign import restart
from tests.faults.crash import Fault, run
from tests.faults.stack import Kind
from tests.servers import PostgresServer, RabbitServer, shared_postgres, shared_rabbitmq

ORDERS = 50

EMBEDDED = (
    Fault("embedded"),
    Fault("embedded", ("consumer.after_commit=kill@60",)),
    Fault("embedded", ("dispatch.before_publish=kill@20", "relay.claimed=kill")),
    Fault("embedded", ("embedded.after_journal=kill@60",)),
)
LOCAL = (
    Fault("orders"),
    Fault("stock", ("consumer.after_commit=kill@10",)),
    Fault("orders", ("saga.after_commit=kill@20",)),
    Fault("gateway", ("gateway.after_publish=kill@30",)),
    Fault("rabbitmq"),
    Fault("postgres"),
)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("kind", "faults"), [("embedded", EMBEDDED), ("local", LOCAL)], ids=["embedded", "local"])
def test_killed_in_the_middle_of_a_day_nothing_is_lost_and_nothing_happens_twice(
    kind: Kind, faults: tuple[Fault, ...], tmp_path: Path
) -> None:
    async def campaign() -> list[str]:
        async with opened(kind, tmp_path) as open_:
            reports = [
                await run(open_.stack, open_.fetch, fault, orders=ORDERS, seed=seed, strike=_strike(fault))
                for seed, fault in enumerate(faults, start=1)
            ]
            return [report.line() for report in reports if report.wrong]

    assert asyncio.run(campaign()) == []


def _strike(fault: Fault) -> Callable[[], Awaitable[None]] | None:
    servers: dict[str, Callable[[], RabbitServer | PostgresServer]] = {"rabbitmq": shared_rabbitmq, "postgres": shared_postgres}
    return partial(asyncio.to_thread, restart, servers[fault.victim]()) if fault.victim in servers else None
