"""Declaring and asking: exchanges, queues and bindings on RabbitMQ.

Everything happens on a channel of its own, since the broker answers what it refuses by closing the channel:
404 is not there, 406 is there with other arguments. While there is no connection a caller waits at most `within_s`.
Bindings can be made but not asked for over AMQP, so `verify` looks at exchanges and queues only.

Source: AMQP 0-9-1, exchange.declare and queue.declare, passive.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from eventplat.broker.rabbitmq_connection import Channel, ChannelEnded, Link
from eventplat.broker.topology import Binding, Exchange, Queue, Topology
from eventplat.errors import BrokerError, BrokerUnavailable, TopologyMismatch, TopologyMissing

NOT_FOUND, PRECONDITION_FAILED = 404, 406


class Census(NamedTuple):
    """What a broker counts at one queue: messages that are ready, and consumers."""

    ready: int
    consumers: int


async def declare(link: Link, topology: Topology, *, within_s: float) -> None:
    """Create what is missing. Exclusive queues are their consumers' own."""
    async with _channel(link, within_s) as channel:
        for exchange in topology.exchanges:
            with_type = {"exchange": exchange.name, "exchange_type": exchange.type, "durable": True}
            await _ask(channel, exchange, channel.raw.exchange_declare, **with_type)
        for queue in topology.queues:
            if queue.type == "exclusive":
                continue
            await _ask(channel, queue, channel.raw.queue_declare, queue=queue.name, durable=True, arguments=queue.arguments)
            for binding in queue.bindings:
                await _ask(channel, queue, channel.raw.queue_bind, queue=queue.name, **_where(binding))
        for queue in topology.queues:  # last: in between a message has two ways, and never none
            for binding in queue.unbound:
                await _ask(channel, queue, channel.raw.queue_unbind, queue=queue.name, **_where(binding))


async def verify(link: Link, topology: Topology, *, within_s: float) -> None:
    """Ask for everything, create nothing."""
    async with _channel(link, within_s) as channel:
        for exchange in topology.exchanges:
            with_type = {"exchange": exchange.name, "exchange_type": exchange.type, "passive": True}
            await _ask(channel, exchange, channel.raw.exchange_declare, **with_type)
        for queue in topology.queues:
            if queue.type != "exclusive":
                await _ask(channel, queue, channel.raw.queue_declare, queue=queue.name, passive=True)


async def depth(link: Link, queue: str, *, within_s: float) -> int | None:
    """Ready messages; None where there is no such queue."""
    counted = await census(link, queue, within_s=within_s)
    return None if counted is None else counted.ready


async def census(link: Link, queue: str, *, within_s: float) -> Census | None:
    """What the broker counts at `queue`; None where there is no such queue."""
    async with _channel(link, within_s) as channel:
        try:
            answer = await channel.ask(channel.raw.queue_declare, queue=queue, passive=True)
        except ChannelEnded as ended:
            if ended.code == NOT_FOUND:
                return None
            raise
        return Census(int(answer.method.message_count), int(answer.method.consumer_count))


async def purge(link: Link, queue: str, *, within_s: float) -> None:
    """Drop every ready message."""
    async with _channel(link, within_s) as channel:
        await _ask(channel, Queue(queue), channel.raw.queue_purge, queue=queue)


@asynccontextmanager
async def _channel(link: Link, within_s: float) -> AsyncIterator[Channel]:
    await link.connected(within_s)
    try:
        channel = await link.channel()
        try:
            yield channel
        finally:
            channel.close()
    except ChannelEnded as ended:
        if ended.code:
            raise BrokerError(str(ended)) from None
        raise BrokerUnavailable(str(ended)) from None


def _where(binding: Binding) -> dict[str, str]:
    return {"exchange": binding.exchange, "routing_key": binding.routing_key}


async def _ask(channel: Channel, thing: Exchange | Queue, call: object, **arguments: object) -> None:
    kind = type(thing).__name__.lower()
    try:
        await channel.ask(call, **arguments)  # type: ignore[arg-type]
    except ChannelEnded as ended:
        if ended.code == NOT_FOUND:
            raise TopologyMissing(f"{kind} {thing.name!r}: {ended.text}") from None
        if ended.code == PRECONDITION_FAILED:
            raise TopologyMismatch(f"{kind} {thing.name!r}: {ended.text}") from None
        raise
