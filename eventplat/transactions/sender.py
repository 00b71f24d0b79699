"""Sender: in whose name messages leave, and how each is addressed.

Next: transactions.letter
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from eventplat.broker.refusal import refusal
from eventplat.broker.topology import COMMANDS, EVENTS, REPLIES, Names, owner_of, routing_key
from eventplat.clock import Clock
from eventplat.errors import Malformed, NoOwner, NotForeign, TooLarge
from eventplat.messages.codec import BODY_BYTES_MAX, Foreign, Properties, check_key, check_size
from eventplat.messages.envelope import Envelope
from eventplat.messages.ids import Chance, derived_id, new_id
from eventplat.messages.message import Message
from eventplat.transactions.letter import Letter


@dataclass
class Sender:
    """In whose name messages leave: the service, its broker names, and where ids and time come from."""

    service: str
    names: Names
    clock: Clock
    chance: Chance
    owners: dict[type[Message], str] = field(default_factory=dict)   # of messages whose class names none
    user_id: str | None = None                                       # the broker user, validated by RabbitMQ

    def new_id(self) -> str:
        """A new UUIDv7."""
        return new_id(self.clock.time_us(), self.chance)

    def letter(
        self, message: Message, *, cause: Envelope | None, id_: str | None = None, reply_to: str | None = None, undoes: str | None = None,
        after_us: int | None = None, deadline_ms: int | None = None,
    ) -> Letter:  # fmt: skip
        """`message` in its envelope, addressed.

        Raises:
            NoOwner: A command whose owner nobody names, or an event of another service.
            TooLarge: Its body or key is over the limit.
            Malformed: Its key is a text that no database holds.
        """
        owner = self._owner(message)
        body, key = message.to_bytes(), message.key
        check_size(body)
        check_key(key)
        own = id_ or self.new_id()
        wire = type(message).wire
        envelope = Envelope(
            id=own,
            type=wire.type_under(owner),
            body=body,
            correlation_id=own if cause is None else cause.correlation_id,
            causation=None if cause is None else cause.id,
            reply_to=reply_to,
            app_id=self.service,
            user_id=self.user_id,
            key=key,
            stream=wire.stream if key is not None else None,
            deadline_ms=deadline_ms,
            undoes=undoes,
            grant=None if cause is None else cause.grant,
            traceparent=None if cause is None else cause.traceparent,
        )
        is_event = message.kind == "event"
        exchange = self.names.exchange(EVENTS if is_event else COMMANDS)
        return Letter(exchange, routing_key(type(message), owner, key), envelope, is_event, after_us)

    def raw(self, exchange: str, routing_key: str, body: bytes, properties: Properties, *, after_us: int | None = None) -> Letter:
        """Exact bytes for another system; under `message_id`, where it has none, our own id.

        Raises:
            NotForeign: The exchange, or the queue behind the broker's default one, is the platform's own.
            TooLarge: Over the limit of a body.
            Malformed: AMQP cannot carry the properties.
        """
        if (exchange or routing_key).startswith(self.names.exchange("")):
            raise NotForeign(f"{exchange or routing_key!r} is the platform's own")
        if len(body) > BODY_BYTES_MAX:
            raise TooLarge(f"the body has {len(body):,} bytes, the limit is {BODY_BYTES_MAX:,}")
        own = self.new_id()
        properties = replace(
            properties, message_id=properties.message_id or own, app_id=properties.app_id or self.service, headers=dict(properties.headers)
        )
        envelope = Foreign(id=own, type=properties.type or "", body=body, correlation_id=own, properties=properties)
        letter = Letter(exchange, routing_key, envelope, after_us=after_us)
        if (refused := refusal(letter.outgoing())) is not None:
            raise Malformed(refused.reason)
        return letter

    def answer(self, request: Envelope, type_: str, body: bytes) -> Letter:
        """The reply to `request`; its id is derived, so that answering again is free.

        From the type too: that it runs and that it is done are two messages, and an inbox takes both.
        """
        envelope = Envelope(
            id=derived_id(request.created_us, request.id, "reply", type_),
            type=type_,
            body=body,
            correlation_id=request.correlation_id,
            causation=request.id,
            app_id=self.service,
            user_id=self.user_id,
            traceparent=request.traceparent,
        )
        return Letter(self.names.exchange(REPLIES), request.reply_to or "", envelope)

    def waits(self, reply_to: str) -> bool:
        """Whether a process waits there, in memory; else it is a service's durable queue."""
        return reply_to.startswith(self.names.waiting(""))

    def _owner(self, message: Message) -> str:
        kind = type(message)
        owner = owner_of(kind, self.owners.get(kind) or (self.service if message.kind == "event" else None))
        if message.kind == "event" and owner != self.service:
            raise NoOwner(f"{kind.__name__} belongs to {owner!r}: {self.service!r} cannot publish it")
        return owner
