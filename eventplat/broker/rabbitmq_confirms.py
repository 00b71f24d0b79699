"""Confirms: which message a broker's ack, nack or return speaks of. Pure.

Tags      the n-th message on a channel has tag n; `multiple` settles every tag up to it. Acks may come in any order.
Returns   a mandatory message without a queue is returned *before* it is acked, and returns come in the order of
          publishing: the search goes on where the last one was found, so that a window of them costs one pass.

Source: RabbitMQ, "Consumer Acknowledgements and Publisher Confirms".
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from eventplat.broker.transport import Confirmed, Nacked, Outcome, Outgoing, Returned
from eventplat.errors import BrokerUnavailable

CONFIRMED = Confirmed()


class Batch:
    """One `publish` call: its outcomes, and the future of all of them."""

    __slots__ = ("done", "is_over", "left", "outcomes")

    def __init__(self, size: int) -> None:
        self.outcomes: list[Outcome | None] = [None] * size
        self.left = size
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_over = False

    def settle(self, index: int, outcome: Outcome) -> None:
        """Record one outcome; a second for the same message changes nothing."""
        if self.is_over or self.outcomes[index] is not None:
            return
        self.outcomes[index] = outcome
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(None)

    def expire(self) -> None:
        """Its time is over."""
        if not self.done.done():
            self.done.set_exception(TimeoutError())

    def fail(self, reason: str) -> None:
        """Give up: some may have arrived."""
        self.is_over = True
        if not self.done.done():
            self.done.set_exception(BrokerUnavailable(reason))


@dataclass(slots=True, eq=False)
class Slot:
    """One message of a batch, on its way."""

    batch: Batch
    index: int
    message: Outgoing

    def settle(self, outcome: Outcome) -> None:
        self.batch.settle(self.index, outcome)


class Confirms:
    """The outstanding messages of one channel."""

    def __init__(self) -> None:
        self._slots: dict[int, Slot] = {}
        self._returned: dict[int, Returned] = {}
        self._sent = 0
        self._lowest = 1         # no outstanding tag is below
        self._return_after = 0   # the next return is of a higher tag
        self.bytes = 0           # of outstanding bodies

    def __len__(self) -> int:
        return len(self._slots)

    def sent(self, slot: Slot) -> None:
        """`slot` was written: it has the next tag."""
        self._sent += 1
        self._slots[self._sent] = slot
        self.bytes += len(slot.message.body)

    def returned(self, exchange: str, routing_key: str, message_id: str | None, reason: str) -> None:
        """The broker sent one back; its ack follows."""
        for tag in range(max(self._return_after + 1, self._lowest), self._sent + 1):
            slot = self._slots.get(tag)
            if slot is None or not slot.message.mandatory:
                continue
            message = slot.message
            if (message.exchange, message.routing_key, message.properties.message_id) == (exchange, routing_key, message_id):
                self._returned[tag] = Returned(reason)
                self._return_after = tag
                return

    def settled(self, tag: int, *, multiple: bool, is_ack: bool) -> None:
        """Give every message that an ack or nack speaks of its outcome."""
        tags: Sequence[int] = range(self._lowest, min(tag, self._sent) + 1) if multiple else (tag,)
        for each in tags:
            slot = self._slots.pop(each, None)
            if slot is None:
                continue
            self.bytes -= len(slot.message.body)
            returned = self._returned.pop(each, None)
            refused = None if is_ack else Nacked("the broker refused it: a full queue, or no majority of its replicas")
            slot.settle(refused or returned or CONFIRMED)
        self._lowest = max(self._lowest, tag + 1) if multiple else self._next_lowest()

    def outstanding(self) -> Iterator[Slot]:
        """Sent and not settled, in the order they were sent."""
        return iter(self._slots.values())

    def live(self) -> Iterator[Slot]:
        """Those of them that somebody still waits for."""
        return (slot for slot in self._slots.values() if not slot.batch.is_over)

    def _next_lowest(self) -> int:
        lowest = self._lowest
        while lowest <= self._sent and lowest not in self._slots:
            lowest += 1
        return lowest
