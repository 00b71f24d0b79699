"""A delivery of the embedded broker: one hand-out of a queue's copy.

It belongs to the channel it came on. Settled twice, or after that channel has gone, it does nothing.

Next: broker.embedded_kombu
"""

from __future__ import annotations

from typing import Protocol

from eventplat.broker.embedded_queue import Copy, fresh
from eventplat.messages.codec import Properties


class Settles(Protocol):
    """The channel, as its deliveries see it."""

    def next_tag(self) -> int: ...
    def has(self, tag: int) -> bool:
        """Whether the delivery `tag` can still be settled here."""
        ...

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None: ...
    def basic_reject(self, delivery_tag: int, requeue: bool = False) -> None: ...


class EmbeddedDelivery:
    """Implements `transport.Delivery`."""

    __slots__ = ("_channel", "_properties", "copy", "delivery_count", "delivery_tag")

    def __init__(self, payload: Copy, channel: Settles) -> None:
        self.copy, self._channel = payload, channel
        self._properties: Properties | None = None
        self.delivery_tag: int = channel.next_tag()
        self.delivery_count = payload.deliveries - 1

    @property
    def properties(self) -> Properties:
        if self._properties is None:
            self._properties = fresh(self.copy.message.properties)
        return self._properties

    @property
    def body(self) -> bytes:
        return self.copy.message.body

    @property
    def queue(self) -> str:
        return self.copy.queue.name

    @property
    def exchange(self) -> str:
        return self.copy.message.exchange

    @property
    def routing_key(self) -> str:
        return self.copy.message.routing_key

    @property
    def redelivered(self) -> bool:
        return self.delivery_count > 0

    def ack(self) -> None:
        if self._channel.has(self.delivery_tag):
            self._channel.basic_ack(self.delivery_tag)

    def requeue(self) -> None:
        if self._channel.has(self.delivery_tag):
            self._channel.basic_reject(self.delivery_tag, requeue=True)

    def give_back(self) -> None:
        if self._channel.has(self.delivery_tag):
            self.copy.deliveries -= 1
            self._channel.basic_reject(self.delivery_tag, requeue=True)

    def dead_letter(self) -> None:
        if self._channel.has(self.delivery_tag):
            self._channel.basic_reject(self.delivery_tag, requeue=False)
