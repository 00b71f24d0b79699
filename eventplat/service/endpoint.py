"""Endpoint: a declared handler in its place: identity, queue, inbox consumer, announced shape.

Next: service.pipeline
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter

from eventplat.broker.partitions import PARTITIONS_MAX, partition_name, partitions
from eventplat.broker.topology import COMMANDS, DEAD, EVENTS, QUERIES, REPLIES, Binding, Names, Queue, Topology, binding_key
from eventplat.broker.transport import Transport
from eventplat.discovery.instance import AnnouncedHandler, AnnouncedRoute, Manifest
from eventplat.errors import Malformed, NoOwner, UnknownType
from eventplat.messages.codec import Foreign, Properties, to_envelope
from eventplat.messages.envelope import Envelope
from eventplat.messages.message import Message, WireName, reply_type
from eventplat.messages.versions import Reading, readings
from eventplat.retry import Retry, seconds
from eventplat.service.handler import Handler
from eventplat.service.service import Service


@dataclass(frozen=True)
class Endpoint:
    """One handler of one service.

    A subscription reads everything that its event is read from, in one queue. A command's or query's handler has an
    endpoint, and so a queue, for each wire name: code of an older release, which knows no newer one, goes on with its own.

    Attributes:
        identity: In the database: the oldest name that it had.
        readings: The wire names that it reads, the one it is announced with first.
        former: Names of queues that it had before.
    """

    service: str
    identity: str
    handler: Handler
    retry: Retry
    name: str                             # on the broker
    readings: tuple[Reading, ...]
    former: tuple[str, ...] = ()

    @property
    def consumer(self) -> str:
        """Whose inbox: an event's subscription; of a command, its owner, so that an undo finds it by id alone."""
        return self.identity if self.handler.message.kind == "event" else self.service

    @cached_property
    def replies(self) -> TypeAdapter[Any]:
        """Writes the reply."""
        return TypeAdapter(reply_type(self.handler.message))

    @cached_property
    def wire_type(self) -> str | None:
        """The type that the first of its names has; None for an event of any owner."""
        owner = self._owner(self.readings[0].wire)
        return None if owner is None else self.readings[0].wire.type_under(owner)

    @property
    def types(self) -> tuple[str, ...]:
        """Every type that it reads; `*` for any owner."""
        return tuple(reading.wire.type_under(self._owner(reading.wire) or "*") for reading in self.readings)

    def accepts(self, type_: str) -> bool:
        """Whether a message of this type is the handler's; another one of the stream only moves its watermark."""
        return self._reading(type_) is not None

    def envelope(self, properties: Properties, body: bytes, *, id_: str | None = None) -> Envelope:
        """What came to this handler.

        Args:
            id_: Of a foreign message that is kept under it already.

        Raises:
            Malformed: It is no message.
        """
        if self.handler.foreign is None:
            return to_envelope(properties, body)
        envelope = self.handler.foreign.envelope(properties, body)
        return envelope if id_ is None else replace(envelope, id=id_)

    def read(self, envelope: Envelope) -> Any:
        """The message in `envelope`, upcast where it is an older one; what `decode` makes of a foreign one.

        Raises:
            UnknownType: An event of its owner, of a name or version that this release does not know.
            Malformed: It is another handler's, or no message of its type.
        """
        if self.handler.foreign is not None and isinstance(envelope, Foreign):
            return self.handler.foreign.read(envelope.properties, envelope.body)
        reading = self._reading(envelope.type)
        if reading is None:
            said = f"{envelope.type} came to {self.identity}, which handles {', '.join(self.types)}"
            raise UnknownType(said) if self._may_be_newer(envelope.type) else Malformed(said)
        return reading.read(envelope.body)

    def queue(self, names: Names) -> Queue:
        """The queue it reads, with its bindings; of another system's, its name."""
        if self.handler.foreign is not None:
            return Queue(self.handler.foreign.name, "classic")
        kind, dead = self.handler.message.kind, Binding(names.exchange(DEAD), self.service)
        if kind == "query":
            return Queue(names.queue(self.name), "classic", self._bindings(names.exchange(QUERIES)))
        bindings = self._bindings(names.exchange(COMMANDS if kind == "command" else EVENTS))
        return Queue(names.queue(self.name), "quorum", bindings, single_active=self.handler.ordered, dead_letter=dead)

    def former_queues(self, names: Names) -> tuple[Queue, ...]:
        """The queues that it had: read where they are still there, declared by nobody."""
        if self.handler.foreign is not None:
            return ()
        return tuple(Queue(names.queue(name), "quorum", single_active=self.handler.ordered) for name in self.former)

    def _bindings(self, exchange: str) -> tuple[Binding, ...]:
        """For each name that it reads; an ordered handler needs whole streams."""
        if self.handler.ordered:
            keys = [f"{reading.wire.owner or '*'}.{reading.wire.stream}.*.*.*" for reading in self.readings]
        else:
            keys = [binding_key(self.handler.message, self._owner(each.wire), each.wire) for each in self.readings]
        return tuple(Binding(exchange, key) for key in dict.fromkeys(keys))

    def _reading(self, type_: str) -> Reading | None:
        owner = None if self.handler.message.kind == "event" else self.service
        return next((reading for reading in self.readings if reading.is_of(type_, owner)), None)

    def _may_be_newer(self, type_: str) -> bool:
        """Whether a newer release may read it: it is an event of an owner whose events are read here."""
        owners = {reading.wire.owner for reading in self.readings}
        return self.handler.message.kind == "event" and (None in owners or type_.partition(".")[0] in owners)

    def _owner(self, wire: WireName) -> str | None:
        return wire.owner if self.handler.message.kind == "event" else self.service

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
        message = self.readings[0].message
        is_newest = self.readings[0].wire == self.handler.message.wire
        route = self.handler.route if is_newest else None
        return AnnouncedHandler(
            name=self.name,
            kind=message.kind,
            type=self.types[0],
            reads=self.types[1:],
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
    taken = {service.identity(handler) for handler in service.handlers}  # a version with a handler of its own is left to that one
    found = []
    for handler in service.handlers:
        retry, every = handler.retry or service.retry, readings(handler.message)
        if handler.message.kind == "event":
            *former, name = service.names(handler)
            found.append(Endpoint(service.name, service.identity(handler), handler, retry, name, every, tuple(former)))
            continue
        for reading in every:
            identity = service.named(reading.wire)
            if reading is not every[0] and identity in taken:
                continue
            taken.add(identity)
            found.append(Endpoint(service.name, identity, handler, retry, identity, (reading,)))
    return found


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
        if endpoint.handler.foreign is None:
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
    said = [endpoint.announced() for endpoint in endpoints(service) if endpoint.handler.foreign is None]
    return Manifest(service=service.name, version=version, handlers=tuple(said))


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
