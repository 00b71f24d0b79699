"""Topology: exchanges, queues and bindings by name, as values. No I/O.

| exchange | type   | for |
|---|---|---|
| events   | topic  | events by routing key |
| commands | topic  | commands to their one owner |
| queries  | topic  | `<owner>.<name>.v1.one` to one instance, `….all` to every instance |
| replies  | direct | an exclusive queue per process; a durable one per service with sagas |
| registry | fanout | heartbeats and manifests |
| replay   | direct | the past, to `<handler>.replay` |
| dead     | direct | the broker's own backstop, to `<service>.dead` |

What safety needs is a queue *argument*, since policies cannot be set or read over AMQP. Nothing
deprecated: no transient queue that is not exclusive, no global prefetch.

Next: broker.transport
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from eventplat.errors import NoOwner
from eventplat.hashing import bucket_of, lane_of
from eventplat.messages.message import Message, WireName

EVENTS, COMMANDS, QUERIES = "events", "commands", "queries"
REPLIES, REGISTRY, REPLAY, DEAD = "replies", "registry", "replay", "dead"

DELIVERY_LIMIT = 50  # a backstop: a crash counts every unacked message, eventplat isolates at 3


@dataclass(frozen=True, slots=True)
class Exchange:
    name: str                                     # with the prefix
    type: Literal["topic", "direct", "fanout"]


@dataclass(frozen=True, slots=True)
class Binding:
    exchange: str
    routing_key: str


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue with its bindings.

    `durable` queues are quorum queues on RabbitMQ (classic for queries); `exclusive` ones belong to one
    connection and go with it. `unbound` are bindings that it may have and is not to have any more.
    """

    name: str
    type: Literal["quorum", "classic", "exclusive"] = "quorum"
    bindings: tuple[Binding, ...] = ()
    single_active: bool = False
    dead_letter: Binding | None = None            # where the broker puts what it gives up
    unbound: tuple[Binding, ...] = ()             # taken away once everything else of its topology is bound

    @property
    def arguments(self) -> dict[str, Any]:
        """The `x-` arguments it is declared with."""
        if self.type != "quorum":
            return {}
        arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-delivery-limit": DELIVERY_LIMIT}
        if self.single_active:
            arguments["x-single-active-consumer"] = True
        if self.dead_letter is not None:
            arguments |= {
                "x-dead-letter-exchange": self.dead_letter.exchange,
                "x-dead-letter-routing-key": self.dead_letter.routing_key,
                "x-dead-letter-strategy": "at-least-once",
            }
        return arguments


@dataclass(frozen=True, slots=True)
class Topology:
    """What a release declares."""

    exchanges: tuple[Exchange, ...] = ()
    queues: tuple[Queue, ...] = field(default=())

    def __or__(self, other: Topology) -> Topology:
        """Both, each exchange and queue once, bindings of one queue joined; what one of them binds is not unbound."""
        queues = {queue.name: queue for queue in self.queues}
        for queue in other.queues:
            known = queues.get(queue.name)
            queues[queue.name] = queue if known is None else _joined(known, queue)
        return Topology(tuple(dict.fromkeys(self.exchanges + other.exchanges)), tuple(queues.values()))


def _joined(one: Queue, other: Queue) -> Queue:
    bindings = tuple(dict.fromkeys(one.bindings + other.bindings))
    unbound = tuple(binding for binding in dict.fromkeys(one.unbound + other.unbound) if binding not in bindings)
    return replace(other, bindings=bindings, unbound=unbound)


@dataclass(frozen=True, slots=True)
class Names:
    """Every broker name, under one configurable prefix."""

    prefix: str = "eventplat"

    def exchange(self, name: str) -> str:
        """As `eventplat.events`."""
        return f"{self.prefix}.{name}"

    def queue(self, handler: str) -> str:
        """The queue of a handler: its identity, as `eventplat.stock.reserve-stock`."""
        return f"{self.prefix}.{handler}"

    def dead(self, service: str) -> str:
        """Where the broker puts what it gives up for `service`."""
        return f"{self.prefix}.{service}.dead"

    def replies(self, service: str) -> str:
        """The durable reply queue of a service with sagas; also its routing key on `replies`."""
        return f"{self.prefix}.{service}.replies"

    def waiting(self, process: str) -> str:
        """The exclusive reply queue of a process that waits in memory; also its routing key on `replies`."""
        return f"{self.prefix}.reply.{process}"

    def exchanges(self) -> tuple[Exchange, ...]:
        """The seven exchanges."""
        kinds: dict[str, Literal["topic", "direct", "fanout"]] = {
            EVENTS: "topic", COMMANDS: "topic", QUERIES: "topic",
            REPLIES: "direct", REPLAY: "direct", DEAD: "direct", REGISTRY: "fanout",
        }  # fmt: skip
        return tuple(Exchange(self.exchange(name), kind) for name, kind in kinds.items())


def routing_key(message: type[Message], owner: str, key: str | None) -> str:
    """`<owner>.<stream>.<name>.v<major>.<lane>`; lane `-` without a key. A query: `<owner>.<name>.v<major>.one`."""
    wire = message.wire
    if message.kind == "query":
        return f"{owner}.{wire.name}.v{wire.version}.one"
    lane = "-" if key is None else str(lane_of(bucket_of(key)))
    return f"{owner}.{wire.stream}.{wire.name}.v{wire.version}.{lane}"


def routing_key_of(type_: str, stream: str, key: str | None, *, is_query: bool = False) -> str:
    """As `routing_key`, from a wire type alone."""
    owner, name, version = type_.rsplit(".", 2)
    if is_query:
        return f"{owner}.{name}.{version}.one"
    return f"{owner}.{stream}.{name}.{version}.{'-' if key is None else lane_of(bucket_of(key))}"


def binding_key(message: type[Message], owner: str | None, wire: WireName | None = None) -> str:
    """The pattern that catches every lane of a message; of any owner where none is named.

    Args:
        wire: One of the names that it is read under; default: its own.
    """
    wire = wire or message.wire
    if message.kind == "query":
        return f"{owner or '*'}.{wire.name}.v{wire.version}.one"
    stream = "*" if message.kind == "command" else wire.stream  # an undo comes in the stream of what it undoes
    return f"{owner or '*'}.{stream}.{wire.name}.v{wire.version}.*"


def owner_of(message: type[Message], default: str | None) -> str:
    """The service that owns `message`.

    Raises:
        NoOwner: The class names none, and neither does `default`.
    """
    owner = message.wire.owner or default
    if owner is None:
        raise NoOwner(f"{message.__name__} has no owner")
    return owner
