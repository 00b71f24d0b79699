"""A batch that fails half-way tells what is known of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eventplat.broker.rabbitmq_publisher import Publisher
from eventplat.broker.transport import Confirmed, Outgoing
from eventplat.errors import BrokerUnavailable
from eventplat.messages.codec import Properties


class NoLink:
    """A connection that is away."""

    state = "disconnected"
    on_unblocked: Any = None

    async def channel(self) -> Any:
        await asyncio.Event().wait()


@pytest.mark.parametrize("ending", ["over time", "connection lost"])
def test_a_batch_that_is_not_settled_in_time_or_cut_off_tells_what_was_confirmed(ending: str) -> None:
    async def test() -> None:
        publisher = Publisher(NoLink(), window=10, backoff=None)  # type: ignore[arg-type]
        publisher.start()
        batch = [Outgoing("events", "a", Properties(), b"{}"), Outgoing("events", "b", Properties(), b"{}")]
        publishing = asyncio.create_task(publisher.publish(batch, timeout_s=0.05 if ending == "over time" else 60))
        await asyncio.sleep(0)
        first, second = publisher._waiting
        first.settle(Confirmed())
        if ending == "connection lost":
            second.batch.fail("gone")
        with pytest.raises(BrokerUnavailable) as caught:
            await publishing
        assert list(caught.value.outcomes) == [Confirmed(), None]
        await publisher.close()

    asyncio.run(test())
