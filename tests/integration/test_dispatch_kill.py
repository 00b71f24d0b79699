"""A process killed between handing a batch to the broker and its confirm: sent, and not deleted."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import func, select

from eventplat.broker.connect import open_transport
from eventplat.broker.topology import EVENTS, REPLIES, Binding, Names, Queue, Topology
from eventplat.broker.transport import Outgoing
from eventplat.clock import SystemClock
from eventplat.failpoints import arm
from eventplat.messages.codec import Properties
from eventplat.messages.message import Event, Key
from eventplat.service.outgoing import Outgoings
from eventplat.settings import load
from eventplat.storage.database import Database
from eventplat.transactions.outbox_tables import outbox

COUNT = 5
WITHIN_S = 10.0


class Placed(Event, name="shop.placed"):
    order_id: Key[str]


def sink(prefix: str) -> Queue:
    return Queue(f"{prefix}.sink", bindings=(Binding(Names(prefix).exchange(EVENTS), "#"),))


async def publish_and_die(broker_url: str, folder: Path, prefix: str) -> None:
    """What the child does."""
    clock = SystemClock()
    transport = open_transport(broker_url, name="victim", clock=clock)
    await transport.open()
    await transport.declare(Topology(Names(prefix).exchanges(), (sink(prefix),)))
    settings = load(data_dir=folder, profile="dev", broker_url=broker_url, prefix=prefix)
    out = Outgoings("shop", settings, transport, owners={}, clock=clock, chance=random.SystemRandom())
    await out.start()
    nobody = Outgoing(Names(prefix).exchange(REPLIES), "nobody", Properties(), b"", mandatory=False)
    await transport.publish([nobody])  # so that a channel is open, as in a process that has run for a while
    arm("dispatch.after_publish=kill")
    async with out.transactions.begin() as work:
        for number in range(COUNT):
            work.publish(Placed(order_id=str(number)))
    await asyncio.Event().wait()


@pytest.mark.parametrize("kind", ["embedded", "rabbitmq"])
def test_a_process_killed_before_the_confirm_leaves_the_messages_in_the_queue_and_the_rows_in_the_outbox(
    kind: str, tmp_path: Path
) -> None:
    prefix = f"kill{random.randrange(1 << 30)}"
    if kind == "embedded":
        broker_url = f"embedded://{tmp_path / 'broker.db'}"
    else:
        from tests.servers import rabbitmq_url  # noqa: PLC0415 - starts a server, only when a test needs it

        broker_url = rabbitmq_url()
    child = subprocess.run(
        [sys.executable, "-m", "tests.integration.test_dispatch_kill", broker_url, str(tmp_path), prefix],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert "failpoint dispatch.after_publish kill" in child.stderr

    assert asyncio.run(_left(broker_url, tmp_path, prefix)) == (COUNT, COUNT)


async def _left(broker_url: str, folder: Path, prefix: str) -> tuple[int, int]:
    """Messages in the queue, and rows in the outbox."""
    clock = SystemClock()
    transport = open_transport(broker_url, name="heir", clock=clock)
    await transport.open()
    database = Database(f"sqlite:///{folder / 'shop.db'}", service="shop", clock=clock)
    try:
        deadline, depth = time.monotonic() + WITHIN_S, 0
        while depth < COUNT and time.monotonic() < deadline:
            depth = await transport.depth(sink(prefix).name) or 0
        async with database.transaction(read_only=True) as connection:
            rows: int = (await connection.execute(select(func.count()).select_from(outbox))).scalar_one()
        await transport.purge(sink(prefix).name)
    finally:
        await database.close()
        await transport.close()
    return depth, rows


if __name__ == "__main__":
    asyncio.run(publish_and_die(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
