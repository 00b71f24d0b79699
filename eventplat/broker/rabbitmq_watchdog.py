"""Watchdog: a consumer that the broker no longer counts, or no longer serves.

Everything a broker says is heard where it is said: a cancelled consumer, a closed channel, a lost connection. What it
does not say is looked for here: a queue that counts no consumer although this process has one (a leader that moved and lost it),
or one with messages ready for a consumer that has room and gets nothing. Such a consumer looks healthy for ever and does nothing.

Forgotten   no consumer is counted, twice in a row: ours is taken up anew.
Starved     messages are ready, ours holds none unsettled and has got none, twice in a row. Not of a queue with a single
            active consumer, where another may be the one.

Source: rabbitmq-server issues on consumers lost with a quorum queue's leader; AMQP 0-9-1, queue.declare-ok, consumer-count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eventplat.broker import rabbitmq_topology
from eventplat.broker.rabbitmq_connection import Link
from eventplat.broker.rabbitmq_consumer import RabbitSubscription
from eventplat.clock import Clock
from eventplat.lifecycle import Loop

EVERY_S = 10.0
ANSWER_S = 1.0   # a broker that takes longer is looked at again in the next turn
STOP_S = 0.5


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at a queue, and at our consumer of it at the same time.

    Attributes:
        attachment: Which stay on which channel; another one is another consumer.
        received: Deliveries that it has got so far.
        unsettled: Of them.
    """

    attachment: int
    ready: int
    consumers: int
    received: int
    unsettled: int


def verdict(before: Sight | None, now: Sight, *, single_active: bool) -> str | None:
    """Why the consumer is to be taken up anew, judged by two looks in a row; None: it is well, or it is too early to say."""
    if before is None or before.attachment != now.attachment:
        return None
    if before.consumers == now.consumers == 0:
        return "the broker counts no consumer"
    is_starved = min(before.ready, now.ready) > 0 and before.received == now.received and now.unsettled == before.unsettled == 0
    return "messages are ready and none is delivered" if is_starved and not single_active else None


class Watchdog:
    """Looks after the consumers of one transport."""

    def __init__(self, link: Link, subscriptions: Callable[[], Sequence[RabbitSubscription]], clock: Clock) -> None:
        self._link, self._subscriptions = link, subscriptions
        self._seen: dict[RabbitSubscription, Sight] = {}
        self._loop = Loop("consumer watchdog", self.run_once, every_s=EVERY_S, clock=clock)

    async def start(self) -> None:
        await self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop(within_s=STOP_S)

    async def run_once(self) -> None:
        """Look at every durable queue once; what is wrong twice in a row is mended."""
        seen: dict[RabbitSubscription, Sight] = {}
        for subscription in self._subscriptions():
            if (sight := await self._look(subscription)) is None:
                continue
            reason = verdict(self._seen.get(subscription), sight, single_active=subscription.queue.single_active)
            if reason is not None:
                subscription.renew(reason)
            seen[subscription] = sight
        self._seen = seen

    async def _look(self, subscription: RabbitSubscription) -> Sight | None:
        if subscription.queue.type == "exclusive" or not subscription.is_active or self._link.state == "disconnected":
            return None
        counted = await rabbitmq_topology.census(self._link, subscription.queue.name, within_s=ANSWER_S)
        state = subscription.progress
        if counted is None or state is None:
            return None  # gone, which its consumer is told
        return Sight(state.attachment, counted.ready, counted.consumers, state.received, state.unsettled)
