"""Endpoint: a declared handler in its place: identity, queue, inbox consumer, announced shape.

Next: service.pipeline
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter

from eventplat.broker.partitions import PARTITIONS_MAX, partition_name, partitions
from eventplat.broker.topology import COMMANDS, DEAD, EVENTS, QUERIES, REPLIES, Binding, Names, Queue, Topology, binding_key
from eventplat.broker.transport import Transport
from eventplat.discovery.instance import AnnouncedHandler, AnnouncedRoute, Manifest
from eventplat.errors import NoOwner
from eventplat.messages.message import Message, reply_type
from eventplat.retry import Retry, seconds
from eventplat.service.handlers import Handler
from eventplat.service.service import Service


@dataclass(frozen=True)
class Endpoint:
    """One handler of one service."""

    service: str
    identity: str
    handler: Handler
    retry: Retry

    @property
    def consumer(self) -> str:
        """Whose inbox: an event's subscription; of a command, its owner, so that an undo finds it by id alone."""
        return self.identity if self.handler.message.kind == "event" else self.service

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """Reads the message."""
        return TypeAdapter(self.handler.message)

    @cached_property
    def replies(self) -> TypeAdapter[Any]:
        """Writes the reply."""
        return TypeAdapter(reply_type(self.handler.message))

    @cached_property
    def wire_type(self) -> str | None:
        """The type its messages carry; None for an event of any owner."""
        message = self.handler.message
        owner = message.wire.owner if message.kind == "event" else self.service
        return None if owner is None else message.wire.type_under(owner)

    def accepts(self, type_: str) -> bool:
        """Whether a message of this type is the handler's; another one of the stream only moves its watermark."""
        if self.wire_type is not None:
            return type_ == self.wire_type
        wire = self.handler.message.wire
        return type_.partition(".")[2] == f"{wire.name}.v{wire.version}"

    def queue(self, names: Names) -> Queue:
        """The queue it reads, with its bindings."""
        message = self.handler.message
        if message.kind == "query":
            binding = Binding(names.exchange(QUERIES), binding_key(message, self.service))
            return Queue(names.queue(self.identity), "classic", (binding,))
        if message.kind == "command":
            binding = Binding(names.exchange(COMMANDS), binding_key(message, self.service))
        elif self.handler.ordered:
            binding = Binding(names.exchange(EVENTS), f"{message.wire.owner or '*'}.{message.wire.stream}.*.*.*")
        else:
            binding = Binding(names.exchange(EVENTS), binding_key(message, message.wire.owner))
        dead = Binding(names.exchange(DEAD), self.service)
        return Queue(names.queue(self.identity), "quorum", (binding,), single_active=self.handler.ordered, dead_letter=dead)

    def queues(self, names: Names, there: int = 1, *, keeps: bool = False) -> tuple[Queue, ...]:
        """The queues it reads: one, or a partitioned handler's several, each with its bindings.

        Args:
            there: How many partition queues there are; those that it has no use for lose their bindings.
            keeps: Use them too.
        """
        count = self.handler.partitions
        return partitions(self.queue(names), max(count, there) if keeps else count, there)

    def announced(self) -> AnnouncedHandler:
        """As gateways and other services hear of it."""
        message, route = self.handler.message, self.handler.route
        return AnnouncedHandler(
            name=self.identity,
            kind=message.kind,
            type=self.wire_type or f"*.{message.wire.name}.v{message.wire.version}",
            stream=message.wire.stream,
            key_field=message.key_field,
            schema_=_closed(message),
            reply_schema=self.replies.json_schema(mode="serialization") if reply_type(message) is not None else None,
            requires=self.handler.requires,
            route=None if route is None else AnnouncedRoute(
                method=route.method, template=route.template, status=route.status,
                wait_s=seconds(route.wait), idempotency_key=route.idempotency_key,
            ),
            summary=self.handler.summary,
            is_saga=self.handler.is_saga,
        )  # fmt: skip


def endpoints(service: Service[Any]) -> list[Endpoint]:
    """The endpoints of a service, checked."""
    service.check()
    return [
        Endpoint(service.name, service.identity(handler), handler, handler.retry or service.retry) for handler in service.handlers
    ]


def topology(service: Service[Any], names: Names, there: Mapping[str, int] = MappingProxyType({}), *, keeps: bool = False) -> Topology:
    """Everything on the broker that this service needs.

    Args:
        there: How many partition queues each ordered handler has on the broker, see `partitions_there`.
        keeps: Leave no partition without lanes: a process of an older release that starts beside a newer one must not
            pull back what that one has spread. Only `eventplat topology apply` goes down.
    """
    dead = Queue(names.dead(service.name), bindings=(Binding(names.exchange(DEAD), service.name),))
    queues = [dead, operations_queue(service.name, names)]
    if any(handler.is_saga for handler in service.handlers):
        queues.append(replies_queue(service.name, names))
    for endpoint in endpoints(service):
        queues += endpoint.queues(names, there.get(endpoint.identity, 1), keeps=keeps)
    return Topology(names.exchanges(), tuple(queues))


async def partitions_there(transport: Transport, service: Service[Any], names: Names) -> dict[str, int]:
    """How many partition queues each ordered handler of `service` has, or is to have: by identity, at least its own number."""
    return {
        endpoint.identity: await _count_there(transport, endpoint.queue(names).name, endpoint.handler.partitions)
        for endpoint in endpoints(service)
        if endpoint.handler.ordered
    }


async def _count_there(transport: Transport, queue: str, count: int) -> int:
    while count < PARTITIONS_MAX and await transport.depth(partition_name(queue, count)) is not None:
        count += 1
    return count


def operations_queue(service: str, names: Names) -> Queue:
    """Where the gateway asks what became of a command."""
    binding = Binding(names.exchange(QUERIES), f"{service}.operation.v1.one")
    return Queue(names.queue(f"{service}.operation"), "classic", (binding,))


def replies_queue(service: str, names: Names) -> Queue:
    """The durable reply queue of a service with sagas."""
    name = names.replies(service)
    dead = Binding(names.exchange(DEAD), service)
    return Queue(name, "quorum", (Binding(names.exchange(REPLIES), name),), dead_letter=dead)


def manifest(service: Service[Any], version: str) -> Manifest:
    """What this release of the service can do."""
    return Manifest(service=service.name, version=version, handlers=tuple(endpoint.announced() for endpoint in endpoints(service)))


def owners(*services: Service[Any]) -> dict[type[Message], str]:
    """Who owns the messages whose class does not say it: the service that handles them, of those in this process.

    Raises:
        NoOwner: Two services handle one such command.
    """
    found: dict[type[Message], str] = {}
    for service in services:
        for handler in service.handlers:
            if handler.message.kind == "event" or handler.message.wire.owner is not None:
                continue
            if found.setdefault(handler.message, handler.owner or service.name) != service.name:
                raise NoOwner(f"{handler.message.__name__} is handled by {found[handler.message]!r} and {service.name!r}")
    return found


def _closed(message: type[Message]) -> dict[str, Any]:
    schema = message.model_json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        if part.get("type") == "object" and "properties" in part:
            part.setdefault("additionalProperties", False)
    return schema
