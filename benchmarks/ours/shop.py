"""What our programs send, and in whose name."""

from __future__ import annotations

import asyncio
import cProfile
import os
import pstats
import sys
from collections.abc import Coroutine
from pathlib import Path
from random import SystemRandom
from tempfile import mkdtemp
from typing import Any

from pydantic import BaseModel

from benchmarks.program import Job, order
from eventplat import Event, Key, Query
from eventplat.broker.connect import open_transport
from eventplat.broker.topology import Names
from eventplat.broker.transport import Transport
from eventplat.clock import SystemClock
from eventplat.observability.logs import configure
from eventplat.settings import Settings
from eventplat.transactions.sender import Sender

SERVICE = "bench"
NAMES = Names("eventplat")


class Placed(Event, name="bench.placed", stream="placed"):
    """The order that every program sends: 512 bytes."""

    order_id: str
    sku: Key[str]
    quantity: int
    note: str


class Taken(Event, name="bench.taken", stream="taken"):
    """What an exactly-once handler sends for it."""

    order_id: Key[str]
    quantity: int


class Quote(BaseModel):
    """The answer to `Price`."""

    sku: str
    note: str


class Price(Query[Quote], name="bench.price"):
    """A question of 512 bytes."""

    order_id: str
    sku: str
    quantity: int
    note: str


def placed(number: int) -> Placed:
    """Message `number`."""
    return Placed(**order(number))


def sender(user: str = "guest") -> Sender:
    """Puts messages in their envelopes."""
    return Sender(SERVICE, NAMES, SystemClock(), SystemRandom(), user_id=user)


async def opened(amqp: str) -> Transport:
    """A transport."""
    transport = open_transport(amqp, name=SERVICE, clock=SystemClock())
    await transport.open()
    return transport


def settings(given: Job, **changes: Any) -> Settings:
    """As a service on real servers has them."""
    found: dict[str, Any] = {
        "profile": "dev", "broker_url": given.amqp, "database_url": given.postgres or None, "data_dir": Path(mkdtemp(prefix="bench-")),
        "log_level": "warning", **changes,
    }  # fmt: skip
    made = Settings(**found)
    configure(made)
    return made


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a program to its end; with BENCH_PROFILE in the environment its functions' times go to standard error."""
    if "BENCH_PROFILE" not in os.environ:
        asyncio.run(main)
        return
    profile = cProfile.Profile()
    profile.runcall(asyncio.run, main)
    pstats.Stats(profile, stream=sys.stderr).sort_stats(os.environ["BENCH_PROFILE"]).print_stats(45)

