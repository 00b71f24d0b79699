"""Link: one connection to RabbitMQ that is always there or on its way back.

A process has two: alarms stop a connection that publishes, and the other goes on consuming and acking.
Whoever needs a channel asks the link, which waits until there is a connection; whoever loses one asks again.

Return    exponential backoff with full jitter, 0.1 to 5 s, over the given brokers in turn; a connection
          that stood for 5 s starts the count anew, so that one that dies at once is not a busy loop.
Refused   a wrong password or virtual host ends `open` at once; after a first success it is retried for ever.
Silence   heartbeats every 15 s: a half-open connection is noticed within two of them.

Source: RabbitMQ, "Detecting Dead TCP Connections", "Connection blocked notifications"; Brooker,
"Exponential Backoff and Jitter" (2015).

Next: broker.rabbitmq_publisher, broker.rabbitmq_consumer
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel as PikaChannel
from pika.exceptions import (
    AMQPError,
    ChannelClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from eventplat.broker.rabbitmq_wire import connection_class, cut, read_more
from eventplat.broker.transport import TransportState
from eventplat.clock import Clock
from eventplat.errors import BrokerUnavailable, SettingsError
from eventplat.observability.metrics import LINK_BLOCKED, LINK_UP, LINKS_LOST
from eventplat.settings import without_password

logger = logging.getLogger(__name__)

T = TypeVar("T")

HEARTBEAT_S = 15
SOCKET_TIMEOUT_S = 5.0
STACK_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 30.0
GOODBYE_S = 2.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0
STOOD_S = 5.0


class ChannelEnded(Exception):
    """A channel is gone: the broker's code and reason, or code 0 with its connection."""

    def __init__(self, reason: BaseException | str) -> None:
        self.code = reason.reply_code if isinstance(reason, ChannelClosedByBroker) else 0
        self.text = reason.reply_text if isinstance(reason, ChannelClosedByBroker) else reason_of(reason)
        super().__init__(f"{self.code} {self.text}" if self.code else self.text)


class Backoff:
    """How long to wait before the next try."""

    def __init__(self, clock: Clock, chance: Callable[[], float]) -> None:
        self._clock, self._chance = clock, chance
        self._failures = 0
        self._stands_since: float | None = None

    def stands(self) -> None:
        """It worked; whether for long, the next `wait` sees."""
        self._stands_since = self._clock.monotonic()

    async def wait(self) -> None:
        """Return after 0 to `FIRST_WAIT_S` seconds, doubled with each failure up to `LONGEST_WAIT_S`."""
        if self._stands_since is not None and self._clock.monotonic() - self._stands_since >= STOOD_S:
            self._failures = 0
        self._stands_since = None
        ceiling = min(FIRST_WAIT_S * 2 ** min(self._failures, 16), LONGEST_WAIT_S)
        self._failures += 1
        await self._clock.sleep(ceiling * self._chance())


class Channel:
    """A pika channel whose calls can be awaited and whose end is a future."""

    def __init__(self, raw: PikaChannel) -> None:
        self.raw = raw
        self.ended: asyncio.Future[ChannelEnded] = asyncio.get_running_loop().create_future()
        raw.add_on_close_callback(lambda _, reason: resolve(self.ended, ChannelEnded(reason)))

    @property
    def is_open(self) -> bool:
        return bool(self.raw.is_open)

    async def ask(self, call: Callable[..., object], **arguments: Any) -> Any:
        """Call a method of the raw channel and return the broker's answer.

        Raises:
            ChannelEnded: The broker closed the channel instead, or the connection was lost, or no answer came.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            call(**arguments, callback=partial(resolve, answer))
        except AMQPError as error:
            raise ChannelEnded(error) from None
        return await self.outcome(answer)

    async def outcome(self, answer: asyncio.Future[T]) -> T:
        """What `answer` brings, unless the channel ends first."""
        either: set[asyncio.Future[Any]] = {answer, self.ended}
        await asyncio.wait(either, timeout=ANSWER_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        if self.ended.done():
            raise self.ended.result()
        self.close()
        raise ChannelEnded(f"no answer in {ANSWER_TIMEOUT_S:g} s")

    def close(self) -> None:
        """Say goodbye, if there is anybody to say it to."""
        if not (self.raw.is_closing or self.raw.is_closed):
            self.raw.close()


class Link:
    """One supervised connection."""

    def __init__(self, urls: Sequence[str], *, name: str, clock: Clock, chance: Callable[[], float], heartbeat_s: int) -> None:
        self._parameters = [_parameters(url, name=name, heartbeat_s=heartbeat_s) for url in urls]
        self._shown = ", ".join(without_password(url) for url in urls)
        self._name, self._backoff = name, Backoff(clock, chance)
        self._connection: AsyncioConnection | None = None
        self._lost: asyncio.Future[str] | None = None
        self._up = asyncio.Event()
        self._up.set()  # not opened is as closed: whoever asks for a channel learns that there will be none
        self._supervisor: asyncio.Task[None] | None = None
        self._attempts = 0
        self._is_closed, self._is_blocked, self._has_stood = True, False, False
        self._reason = "no answer"
        self.on_unblocked: Callable[[], None] = lambda: None

    @property
    def state(self) -> TransportState:
        if self._connection is None:
            return "disconnected"
        return "blocked" if self._is_blocked else "connected"

    async def open(self, within_s: float) -> None:
        """Connect, trying again until `within_s` seconds are over.

        Raises:
            BrokerUnavailable: Not reached, or refused, with the last reason.
        """
        self._is_closed = False
        self._up.clear()
        self._supervisor = asyncio.create_task(self._supervise(), name=f"{self._name} link")
        up = asyncio.create_task(self._up.wait())
        try:
            await asyncio.wait({up, self._supervisor}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
        if self._connection is None:
            await self.close()
            raise BrokerUnavailable(f"{self._shown}: {self._reason}")

    async def close(self) -> None:
        """Say goodbye, at most `GOODBYE_S` seconds long; what was written before arrives before it."""
        self._is_closed = True
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait({self._supervisor})
        connection, lost, self._connection = self._connection, self._lost, None
        self._up.set()  # whoever waits for a channel learns that there will be none
        if connection is not None and lost is not None:
            await _leave(connection, lost)

    async def connected(self, within_s: float) -> None:
        """Return as soon as there is a connection.

        Raises:
            BrokerUnavailable: There was none in `within_s` seconds, with the last reason.
        """
        try:
            async with asyncio.timeout(within_s):
                await self._up.wait()
        except TimeoutError:
            raise BrokerUnavailable(f"{self._shown}: not connected within {within_s:g} s: {self._reason}") from None

    async def channel(self) -> Channel:
        """A new channel, as soon as there is a connection.

        Raises:
            BrokerUnavailable: This link is closed.
            ChannelEnded: The broker gives no more channels.
        """
        while True:
            await self._up.wait()
            if self._is_closed or self._connection is None:
                raise BrokerUnavailable(f"{self._name} is closed")
            opened: asyncio.Future[PikaChannel] = asyncio.get_running_loop().create_future()
            try:
                channel = Channel(self._connection.channel(on_open_callback=partial(resolve, opened)))
                await channel.outcome(opened)
            except (AMQPError, ChannelEnded) as error:
                if self._connection is not None and self._connection.is_open:
                    raise ChannelEnded(error) from None
                await asyncio.sleep(0)  # its loss is about to be noticed
                continue
            return channel

    async def _supervise(self) -> None:
        while True:
            try:
                connection, lost = await self._connect()
            except _Refused as refused:
                self._reason = str(refused)
                logger.warning("the broker cannot be reached", extra={"link": self._name, "reason": self._reason})
                if refused.is_final and not self._has_stood:
                    return
                await self._backoff.wait()
                continue
            self._connection, self._lost, self._has_stood, self._is_blocked = connection, lost, True, False
            self._backoff.stands()
            self._up.set()
            LINK_UP.labels(self._name).set(1)
            logger.info("connected to the broker", extra={"link": self._name})
            self._reason = await asyncio.shield(lost)
            self._connection, self._lost = None, None
            self._up.clear()
            LINK_UP.labels(self._name).set(0)
            LINK_BLOCKED.labels(self._name).set(0)
            LINKS_LOST.labels(self._name).inc()
            logger.warning("the connection to the broker was lost", extra={"link": self._name, "reason": self._reason})
            await self._backoff.wait()

    async def _connect(self) -> tuple[AsyncioConnection, asyncio.Future[str]]:
        parameters = self._parameters[self._attempts % len(self._parameters)]
        self._attempts += 1
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[BaseException | None] = loop.create_future()
        lost: asyncio.Future[str] = loop.create_future()

        def failed(_: Any, error: Any) -> None:
            resolve(opened, error)
            resolve(lost, reason_of(error))

        connection = connection_class()(
            parameters,
            on_open_callback=lambda _: resolve(opened, None),
            on_open_error_callback=failed,
            on_close_callback=lambda _, error: resolve(lost, reason_of(error)),
            custom_ioloop=loop,
        )
        try:
            error = await asyncio.shield(opened)
        except asyncio.CancelledError:
            await _leave(connection, lost)
            raise
        if error is not None:
            raise _Refused(error)
        read_more(connection)
        connection.add_on_connection_blocked_callback(lambda _, frame: self._blocked(frame.method.reason))
        connection.add_on_connection_unblocked_callback(lambda *_: self._unblocked())
        return connection, lost

    def _blocked(self, reason: str) -> None:
        self._is_blocked = True
        LINK_BLOCKED.labels(self._name).set(1)
        logger.warning("the broker takes no messages for now", extra={"link": self._name, "reason": reason})

    def _unblocked(self) -> None:
        self._is_blocked = False
        LINK_BLOCKED.labels(self._name).set(0)
        logger.info("the broker takes messages again", extra={"link": self._name})
        self.on_unblocked()


class _Refused(Exception):
    def __init__(self, error: BaseException) -> None:
        super().__init__(reason_of(error))
        self.is_final = isinstance(error, ProbableAuthenticationError | ProbableAccessDeniedError)


def reason_of(error: object) -> str:
    """What an error says; pika's often say nothing, then their representation."""
    return str(error) or repr(error)


def resolve(future: asyncio.Future[T], result: T) -> None:
    """Give `future` its result, unless it has one."""
    if not future.done():
        future.set_result(result)


async def _leave(connection: AsyncioConnection, lost: asyncio.Future[str]) -> None:
    if not (connection.is_closing or connection.is_closed):
        connection.close()
    await asyncio.wait({lost}, timeout=GOODBYE_S)
    if not lost.done():
        cut(connection)
        await asyncio.wait({lost}, timeout=GOODBYE_S)


def _parameters(url: str, *, name: str, heartbeat_s: int) -> pika.URLParameters:
    try:
        parameters = pika.URLParameters(url)
    except (ValueError, TypeError, AttributeError) as error:
        raise SettingsError(f"{without_password(url)} is no broker URL: {reason_of(error)}") from None
    parameters.heartbeat = heartbeat_s
    parameters.blocked_connection_timeout = None  # blocked publishes end with their own deadlines
    parameters.socket_timeout = SOCKET_TIMEOUT_S
    parameters.stack_timeout = STACK_TIMEOUT_S
    parameters.connection_attempts = 1
    parameters.client_properties = {"connection_name": name, "product": "eventplat"}
    return parameters
