"""Consuming: a subscription that outlives its channels.

A subscription has one channel at a time, on which it is an attachment. Whatever ends it, a cancel by the broker, a closed
channel or a lost connection, there is one way back: a channel, the exclusive queue declared anew under its name, prefetch, consume.

Gone      a durable queue that is not there is asked for again with backoff; meanwhile `is_active` is False.
Locked    the broker may hold a dead connection for a while, and its exclusive queues with it (405): asked for again.
          So is one that another consumer of this connection has (403).
Unbound   an exclusive queue whose exchange is not there is deleted again: it would fill without a consumer.

Source: RabbitMQ, "Consumers", consumer cancel notifications.

Next: broker.rabbitmq_attachment
"""

from __future__ import annotations

import asyncio
import logging

from eventplat.broker.rabbitmq_attachment import Attachment, Progress
from eventplat.broker.rabbitmq_connection import Backoff, ChannelEnded, Link, resolve
from eventplat.broker.topology import Queue
from eventplat.broker.transport import Receive
from eventplat.errors import BrokerUnavailable, TopologyMissing
from eventplat.observability.metrics import CONSUMERS_LOST

logger = logging.getLogger(__name__)

NOT_FOUND = 404


class RabbitSubscription:
    """A consumer of one queue, over reconnects, until cancelled."""

    def __init__(self, link: Link, queue: Queue, receive: Receive, *, prefetch: int, backoff: Backoff) -> None:
        self._link, self._queue, self._receive, self._prefetch, self._backoff = link, queue, receive, prefetch, backoff
        self._attachment: Attachment | None = None
        self._task: asyncio.Task[None] | None = None
        self._first: asyncio.Future[BaseException | None] | None = None

    @property
    def is_active(self) -> bool:
        return self._attachment is not None and self._attachment.is_consuming and not self._attachment.ended.done()

    @property
    def is_over(self) -> bool:
        """Whether it was started and has been cancelled."""
        return self._task is not None and self._task.done()

    @property
    def queue(self) -> Queue:
        return self._queue

    @property
    def progress(self) -> Progress | None:
        """How far it has come on its channel; None where it has none."""
        return self._attachment.progress if self._attachment is not None and self.is_active else None

    def renew(self, reason: str) -> None:
        """Consume anew on another channel: this one only looks well."""
        if self._attachment is not None:
            self._attachment.end(reason)

    async def start(self, within_s: float) -> None:
        """Consume for the first time.

        Raises:
            TopologyMissing: The queue, or an exchange it is bound to, is not there.
            BrokerUnavailable: Not consuming within `within_s` seconds.
        """
        self._first = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(self._first), name=f"consume {self._queue.name}")
        try:
            async with asyncio.timeout(within_s):
                error = await asyncio.shield(self._first)
        except TimeoutError:
            error = BrokerUnavailable(f"{self._queue.name} could not be consumed within {within_s:g} s")
        except asyncio.CancelledError:
            await self.detach()
            raise
        if error is not None:
            await self.detach()
            raise error

    async def cancel(self) -> None:
        attachment = self._attachment
        await self._end()
        if attachment is not None:
            await attachment.stop()

    async def detach(self) -> None:
        """Stop where it stands: acks leave, nothing is waited for. The transport closes the connection next."""
        if self._attachment is not None:
            self._attachment.flush()
        await self._end()

    async def _end(self) -> None:
        self._attachment = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self, first: asyncio.Future[BaseException | None]) -> None:
        while True:
            try:
                attachment = await self._attach()
            except ChannelEnded as ended:
                if ended.code == NOT_FOUND and not first.done():
                    await self._withdraw()
                    resolve(first, TopologyMissing(ended.text))
                    return
                self._log("a queue cannot be consumed", str(ended))
                await self._backoff.wait()
                continue
            except BrokerUnavailable as error:
                resolve(first, error)
                return
            self._backoff.stands()
            resolve(first, None)
            reason = await asyncio.shield(attachment.ended)
            CONSUMERS_LOST.labels("exclusive" if self._queue.type == "exclusive" else self._queue.name).inc()
            self._log("a consumer was lost", reason)
            await self._backoff.wait()

    async def _attach(self) -> Attachment:
        attachment = Attachment(await self._link.channel(), self._queue, self._receive)
        self._attachment = attachment  # before the first delivery: its ack may be followed by `detach` at once
        await attachment.begin(self._prefetch)
        return attachment

    async def _withdraw(self) -> None:
        """Delete the exclusive queue that could not be bound."""
        if self._queue.type != "exclusive":
            return
        try:
            channel = await self._link.channel()
            await channel.ask(channel.raw.queue_delete, queue=self._queue.name, if_unused=True)
            channel.close()
        except (ChannelEnded, BrokerUnavailable) as error:  # then it goes with the connection
            self._log("an exclusive queue was not deleted", str(error))

    def _log(self, event: str, reason: str) -> None:
        logger.warning(event, extra={"queue": self._queue.name, "reason": reason})
