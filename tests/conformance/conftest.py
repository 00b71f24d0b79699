"""The two brokers that the transport suite runs on."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pika
import pytest

from eventplat.broker.embedded import EmbeddedTransport
from eventplat.broker.embedded_broker import shared
from eventplat.broker.rabbitmq import RabbitTransport
from eventplat.broker.rabbitmq_connection import Link
from eventplat.broker.topology import Topology
from eventplat.broker.transport import Transport
from eventplat.clock import SystemClock
from tests.conformance.brokers import Broker, Corner


def sever(link: Link) -> None:
    """Cut the connection of `link` on the spot: no goodbye, and what is answered now nobody hears."""
    connection: Any = link._connection
    connection._transport._sock.shutdown(socket.SHUT_RDWR)


class RabbitBroker:
    kind = "rabbitmq"

    def __init__(self, url: str, chance: Callable[[], float] = random.random) -> None:
        """`chance`: 0..1 of each wait before coming back."""
        self.url, self.chance = url, chance

    def transport(self, *, patience_s: float = 10.0) -> RabbitTransport:
        return RabbitTransport(self.url, name="conformance", clock=SystemClock(), connect_timeout_s=patience_s, chance=self.chance)

    async def crash(self, transports: Sequence[Transport]) -> None:
        for transport in transports:
            assert isinstance(transport, RabbitTransport)
            for subscription in transport._subscriptions:
                attachment = subscription._attachment
                if attachment is not None:  # the answer comes after the acks that went before the question
                    attachment.flush()
                    await attachment._channel.ask(attachment._channel.raw.basic_qos, prefetch_count=1)
            for link in (transport._consuming, transport._publishing):
                sever(link)
            await transport.close()

    def clean(self, topology: Topology) -> None:
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        channel = connection.channel()
        for queue in topology.queues:
            channel.queue_delete(queue.name)
        for exchange in topology.exchanges:
            channel.exchange_delete(exchange.name)
        connection.close()


class EmbeddedBroker:
    kind = "embedded"

    def __init__(self, path: Path) -> None:
        self.path = path

    def transport(self, *, patience_s: float = 10.0) -> EmbeddedTransport:
        return EmbeddedTransport(self.path, clock=SystemClock())

    async def crash(self, transports: Sequence[Transport]) -> None:
        await asyncio.sleep(0)  # the turn that writes what was settled
        shared(self.path, clock=SystemClock()).abandon()

    def clean(self, topology: Topology) -> None:
        """The journal goes with the test's directory."""


@pytest.fixture(params=["rabbitmq", "embedded"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Broker:
    if request.param == "embedded":
        return EmbeddedBroker(tmp_path / "broker.db")
    from tests.servers import rabbitmq_url  # noqa: PLC0415 - starts a server, only when a test needs it

    return RabbitBroker(rabbitmq_url())


@pytest.fixture
def corner(broker: Broker) -> Corner:
    return Corner(broker)
