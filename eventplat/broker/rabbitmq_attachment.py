"""Attachment: a subscription's stay on one channel, and the deliveries that came on it.

A delivery belongs to the channel it came on; settled after that has gone it does nothing, since its tag means
another message on the next channel, and the broker delivers it again anyway. Acks leave once per loop turn, the
contiguous prefix in one frame.

Source: RabbitMQ, "Consumer Acknowledgements".

Next: broker.rabbitmq_acks
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

from eventplat.broker.rabbitmq_acks import Acks
from eventplat.broker.rabbitmq_connection import Channel, ChannelEnded, resolve
from eventplat.broker.rabbitmq_frames import Arrived
from eventplat.broker.rabbitmq_properties import delivery_count, from_pika
from eventplat.broker.rabbitmq_wire import deliver_directly
from eventplat.broker.topology import Queue
from eventplat.broker.transport import Receive
from eventplat.messages.codec import Properties

logger = logging.getLogger(__name__)

_numbers = count(1)


class Progress(NamedTuple):
    """How far a consumer has come.

    Attributes:
        attachment: The number of its stay on one channel.
    """

    attachment: int
    received: int
    unsettled: int


class RabbitDelivery:
    """One message, bound to the channel it came on."""

    __slots__ = (
        "_is_settled", "_source", "body", "delivery_count", "exchange", "properties", "queue", "redelivered", "routing_key", "tag",
    )

    def __init__(
        self, source: Attachment, tag: int, queue: str, exchange: str, routing_key: str, redelivered: bool, properties: Properties,
        body: bytes, count: int,
    ) -> None:  # fmt: skip
        self._source, self.tag, self._is_settled = source, tag, False
        self.queue, self.exchange, self.routing_key, self.redelivered = queue, exchange, routing_key, redelivered
        self.properties, self.body, self.delivery_count = properties, body, count

    def ack(self) -> None:
        if self._settles():
            self._source.ack(self.tag)

    def requeue(self) -> None:
        if self._settles():
            self._source.reject(self.tag, requeue=True)

    def give_back(self) -> None:
        if self._settles():
            self._source.give_back(self.tag)

    def dead_letter(self) -> None:
        if self._settles():
            self._source.reject(self.tag, requeue=False)

    def _settles(self) -> bool:
        first, self._is_settled = not self._is_settled, True
        return first


class Attachment:
    """A subscription's stay on one channel."""

    def __init__(self, channel: Channel, queue: Queue, receive: Receive) -> None:
        self._channel, self._queue, self._receive = channel, queue, receive
        self._acks = Acks()
        self._needs_acks = queue.type != "exclusive"
        self._is_flushing = self._is_stopping = False
        self.is_consuming = False
        self.number, self.received = next(_numbers), 0
        self._tag = ""
        self._forget: Callable[[], None] = lambda: None
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        channel.ended.add_done_callback(self._on_ended)

    async def begin(self, prefetch: int) -> None:
        """Declare what is exclusive, then consume.

        Raises:
            ChannelEnded: The broker refused, with its code.
        """
        raw, ask = self._channel.raw, self._channel.ask
        try:
            if not self._needs_acks:
                await ask(raw.queue_declare, queue=self._queue.name, exclusive=True, auto_delete=True)
                for binding in self._queue.bindings:
                    await ask(raw.queue_bind, queue=self._queue.name, exchange=binding.exchange, routing_key=binding.routing_key)
            await ask(raw.basic_qos, prefetch_count=prefetch)
            raw.add_on_cancel_callback(self._on_cancel)
            self._tag = f"{self._queue.name}#{raw.channel_number}"
            self._forget = deliver_directly(raw, self._tag, self._on_arrived)
            await ask(
                raw.basic_consume, queue=self._queue.name, on_message_callback=self._on_message,
                auto_ack=not self._needs_acks, exclusive=not self._needs_acks, consumer_tag=self._tag,
            )
            self.is_consuming = True
        except BaseException:
            self._channel.close()
            raise

    async def stop(self) -> None:
        """No new deliveries; the channel stays until those it brought are settled."""
        self._is_stopping = True
        self._forget()  # what comes before the broker knows is pika's to give back
        try:
            await self._channel.ask(self._channel.raw.basic_cancel, consumer_tag=self._tag)
        except ChannelEnded as ended:
            logger.info("its channel ended before the consumer did", extra={"queue": self._queue.name, "reason": str(ended)})
        self._close_if_idle()

    def ack(self, tag: int) -> None:
        if self._needs_acks and self._channel.is_open:
            self._acks.acked(tag)
            self._flush_soon()

    def reject(self, tag: int, *, requeue: bool) -> None:
        if self._needs_acks and self._channel.is_open:
            self._acks.rejected(tag)
            self._channel.raw.basic_reject(tag, requeue)
            self._flush_soon()

    def give_back(self, tag: int) -> None:
        """A nack, which RabbitMQ counts no more from 4.3 on; a reject is counted by all."""
        if self._needs_acks and self._channel.is_open:
            self._acks.rejected(tag)
            self._channel.raw.basic_nack(tag, requeue=True)
            self._flush_soon()

    def flush(self) -> None:
        """Send the acks of this loop turn."""
        self._is_flushing = False
        if not self._channel.is_open:
            return
        prefix, single = self._acks.take()
        if prefix:
            self._channel.raw.basic_ack(prefix, multiple=True)
        for tag in single:
            self._channel.raw.basic_ack(tag)
        self._close_if_idle()

    def _flush_soon(self) -> None:
        if not self._is_flushing:
            self._is_flushing = True
            asyncio.get_running_loop().call_soon(self.flush)

    def _close_if_idle(self) -> None:
        if self._is_stopping and not self._acks.open and not self._is_flushing:
            self._channel.close()

    @property
    def progress(self) -> Progress:
        return Progress(self.number, self.received, self._acks.open)

    def end(self, reason: str) -> None:
        """Leave this channel: what it brought and is not settled comes again."""
        resolve(self.ended, reason)
        self._channel.close()

    def _on_cancel(self, _: Any) -> None:
        self.end("the broker cancelled the consumer")

    def _on_ended(self, ended: asyncio.Future[ChannelEnded]) -> None:
        self._forget()
        resolve(self.ended, str(ended.result()))

    def _on_message(self, _: Any, method: Any, properties: Any, body: bytes) -> None:
        count = self._count(delivery_count(properties), method.redelivered)
        self._hand_over(RabbitDelivery(
            self, int(method.delivery_tag), self._queue.name, method.exchange, method.routing_key, method.redelivered,
            from_pika(properties), body, count,
        ))  # fmt: skip

    def _on_arrived(self, it: Arrived) -> None:
        count = self._count(it.deliveries, it.redelivered)
        self._hand_over(RabbitDelivery(
            self, it.delivery_tag, self._queue.name, it.exchange, it.routing_key, it.redelivered, it.properties, it.body, count
        ))  # fmt: skip

    def _count(self, counted: int | None, redelivered: bool) -> int:
        """A quorum queue leaves out what is 0, as of what was only given back; a classic one says no more than that it comes again."""
        return counted if counted is not None else int(redelivered and self._queue.type != "quorum")

    def _hand_over(self, delivery: RabbitDelivery) -> None:
        self.is_consuming = True  # a turn before `begin` hears of it
        self.received += 1
        if self._needs_acks:
            self._acks.delivered(delivery.tag)
        try:
            self._receive(delivery)
        except Exception:  # a bug of the caller must not take the connection with it
            logger.exception("a delivery of %s was not received; it comes again", self._queue.name)
            delivery.requeue()
