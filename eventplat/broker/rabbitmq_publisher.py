"""Publisher: pipelined confirms, and what happens when they do not come.

Window    at most `window` messages and `WINDOW_BYTES` are outstanding; the rest waits here, in order.
Blocked   under an alarm nothing is sent: a publish waits until its deadline, and was then never sent.
Late      a batch that is not confirmed in time gets `BrokerUnavailable`, and its channel is retired: it settles
          the messages of others, takes no new ones and is closed when nobody waits for it. Its lost confirms
          do not use up the window of those who follow.
Culprit   the broker closes a channel for one bad message (no such exchange, no permission, a false user id) and
          does not say which. What was outstanding is sent again in halves, each on a channel of its own, until
          the culprit stands alone and is `Nacked`. The others may arrive twice; receivers drop copies by id.
Lost      with the connection goes the knowledge: every batch with a message outstanding fails at once. A batch of
          which nothing was sent waits for the next connection.

Source: RabbitMQ, "Consumer Acknowledgements and Publisher Confirms", "Channels", channel-level exceptions.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

from pika.exceptions import ChannelWrongStateError, ConnectionWrongStateError
from pika.spec import Basic

from eventplat.broker.rabbitmq_confirms import Batch, Confirms, Slot
from eventplat.broker.rabbitmq_connection import Backoff, Channel, ChannelEnded, Link
from eventplat.broker.rabbitmq_properties import to_pika
from eventplat.broker.rabbitmq_wire import confirm_directly, send_directly
from eventplat.broker.refusal import refusal
from eventplat.broker.transport import Nacked, Outcome, Outgoing
from eventplat.clock import SystemClock
from eventplat.deadlines import Deadlines
from eventplat.errors import BrokerUnavailable

logger = logging.getLogger(__name__)

WINDOW = 1_024
WINDOW_BYTES = 16 * 1_048_576
NOT_FOUND = 404


class Publisher:
    """Publishes over one channel at a time."""

    def __init__(self, link: Link, *, window: int, backoff: Backoff) -> None:
        self._link, self._window, self._backoff = link, window, backoff
        self._waiting: deque[Slot] = deque()
        self._suspects: deque[list[Slot]] = deque()   # groups with a culprit among them
        self._lane: _Lane | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._is_isolating = False
        link.on_unblocked = self._pump

    def start(self) -> None:
        self._deadlines: Deadlines[Batch] = Deadlines(SystemClock())   # on this loop
        self._supervisor = asyncio.create_task(self._supervise(), name="publisher")

    async def close(self) -> None:
        """Fail what is not settled: it may have arrived."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
            await asyncio.wait({supervisor})
        lane, self._lane = self._lane, None
        suspects = [slot for group in self._suspects for slot in group]
        for slot in [*self._waiting, *suspects, *(lane.confirms.live() if lane else ())]:
            slot.batch.fail("the transport was closed")
        self._waiting.clear()
        self._suspects.clear()
        self._is_isolating = False

    async def publish(self, messages: Sequence[Outgoing], *, timeout_s: float) -> list[Outcome]:
        """As `Transport.publish`."""
        if self._supervisor is None:
            raise BrokerUnavailable("the transport is not open")
        if not messages:
            return []
        batch = Batch(len(messages))
        for slot in [Slot(batch, index, message) for index, message in enumerate(messages)]:
            refused = refusal(slot.message)
            if refused is None:
                self._waiting.append(slot)
            else:
                slot.settle(refused)
        self._pump()
        self._deadlines.add(batch, timeout_s)
        try:
            await batch.done
        except TimeoutError:
            self._retire_lane_of(batch)
            raise BrokerUnavailable(
                f"{batch.left} of {len(messages)} messages were not settled in {timeout_s:g} s (connection: {self._link.state})",
                outcomes=batch.outcomes,
            ) from None
        except BrokerUnavailable as error:
            error.outcomes = batch.outcomes
            raise
        finally:
            self._deadlines.discard(batch)
            batch.is_over = True
            if batch.left:
                self._forget(batch)
        return cast("list[Outcome]", batch.outcomes)

    async def _supervise(self) -> None:
        while True:
            try:
                channel = await self._link.channel()
                await self._begin(channel)
            except ChannelEnded as ended:
                logger.warning("no channel to publish on", extra={"reason": str(ended)})
                await self._backoff.wait()
                continue
            except BrokerUnavailable:  # closed
                return
            lane = self._lane
            if lane is not None:
                await lane.is_over.wait()

    async def _begin(self, channel: Channel) -> None:
        lane = _Lane(channel)
        channel.raw.add_on_return_callback(lane.on_return)
        forget = confirm_directly(channel.raw, partial(self._settled, lane, is_ack=True))
        channel.ended.add_done_callback(lambda _: forget())
        await channel.ask(channel.raw.confirm_delivery, ack_nack_callback=partial(self._on_confirm, lane))
        channel.ended.add_done_callback(partial(self._on_ended, lane))
        self._lane = lane
        self._pump()

    def _pump(self) -> None:
        """Send what the window has room for; suspects first, one group at a time."""
        lane = self._lane
        if lane is None or self._link.state != "connected":
            return
        while self._is_isolating and not lane.confirms and lane.is_open:
            self._is_isolating = bool(self._suspects)
            if self._suspects:
                group = deque(self._suspects.popleft())
                self._send_all(lane, group)
                if group:  # the channel ended under it
                    self._suspects.appendleft(list(group))
        if not self._is_isolating:
            self._send_all(lane, self._waiting)

    def _send_all(self, lane: _Lane, slots: deque[Slot]) -> None:
        confirms = lane.confirms
        while slots and len(confirms) < self._window and (confirms.bytes < WINDOW_BYTES or not confirms):
            slot = slots.popleft()
            if slot.batch.is_over:
                continue
            if not lane.send(slot):
                slots.appendleft(slot)
                return

    def _on_confirm(self, lane: _Lane, frame: Any) -> None:
        method = frame.method
        self._settled(lane, method.delivery_tag, method.multiple, is_ack=isinstance(method, Basic.Ack))

    def _settled(self, lane: _Lane, tag: int, multiple: bool, *, is_ack: bool) -> None:
        lane.confirms.settled(tag, multiple=multiple, is_ack=is_ack)
        if lane is self._lane:
            self._pump()
        else:
            lane.close_if_idle()

    def _on_ended(self, lane: _Lane, ended: asyncio.Future[ChannelEnded]) -> None:
        reason = ended.result()
        live = list(lane.confirms.live())
        if lane is self._lane:
            self._lane = None
            self._is_isolating = bool(self._suspects)
        lane.is_over.set()
        if reason.code:
            self._isolate(live, reason)
        else:
            for slot in live:
                slot.batch.fail(f"the connection was lost: {reason}")
        self._pump()

    def _isolate(self, live: list[Slot], reason: ChannelEnded) -> None:
        logger.warning(
            "the broker closed the channel over a message", extra={"reason": str(reason), "outstanding": len(live)}
        )
        if len(live) == 1:
            self._refuse(live[0], reason)
        elif live:
            middle = len(live) // 2
            self._suspects.extendleft((live[middle:], live[:middle]))
        self._is_isolating = bool(self._suspects)

    def _refuse(self, culprit: Slot, reason: ChannelEnded) -> None:
        refusal = Nacked(str(reason))
        culprit.settle(refusal)
        if reason.code == NOT_FOUND:  # the others for that exchange need no channel each to learn it
            for slot in [slot for group in self._suspects for slot in group]:
                if slot.message.exchange == culprit.message.exchange:
                    slot.settle(refusal)
            groups = ([slot for slot in group if slot.batch.outcomes[slot.index] is None] for group in self._suspects)
            self._suspects = deque(group for group in groups if group)

    def _retire_lane_of(self, batch: Batch) -> None:
        lane = self._lane
        batch.is_over = True
        if lane is not None and lane.carries(batch):
            self._lane = None
            self._is_isolating = bool(self._suspects)
            lane.is_over.set()
            lane.close_if_idle()

    def _forget(self, batch: Batch) -> None:
        self._waiting = deque(slot for slot in self._waiting if slot.batch is not batch)


class _Lane:
    """One channel in confirm mode with its outstanding messages."""

    def __init__(self, channel: Channel) -> None:
        self.confirms = Confirms()
        self.is_over = asyncio.Event()   # another channel is to follow
        self._channel = channel

    @property
    def is_open(self) -> bool:
        return self._channel.is_open

    def send(self, slot: Slot) -> bool:
        """Write one message; False when the channel has just ended. One that cannot be written is `Nacked`."""
        message, raw = slot.message, self._channel.raw
        try:
            if not send_directly(raw, message):
                properties = to_pika(message.properties, persistent=message.persistent)
                raw.basic_publish(message.exchange, message.routing_key, message.body, properties, message.mandatory)
        except (ChannelWrongStateError, ConnectionWrongStateError):
            return False
        except Exception as error:  # one that `refusal` let pass: its neighbours must not pay for it
            slot.settle(Nacked(f"it cannot be written as AMQP: {error!r}"))
            return True
        self.confirms.sent(slot)
        return True

    def carries(self, batch: Batch) -> bool:
        return any(slot.batch is batch for slot in self.confirms.outstanding())

    def close_if_idle(self) -> None:
        """Close a retired channel once nobody waits for its confirms."""
        if next(self.confirms.live(), None) is None:
            self._channel.close()

    def on_return(self, _: Any, method: Any, properties: Any, __: bytes) -> None:
        self.confirms.returned(method.exchange, method.routing_key, properties.message_id, method.reply_text)
