"""The envelope: what is known of a message besides its body. Pure.

The body is the message's JSON and nothing else, kept as the exact bytes; everything here travels as
AMQP properties and headers (`messages.codec`). CloudEvents is a documented mapping of these fields:
id → id, type → type, app_id → source, created → time, key → partitionkey, traceparent → traceparent.

Next: messages.codec
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eventplat.hashing import bucket_of, bucket_of_once
from eventplat.messages.ids import created_us

ReplyKind = Literal["done", "rejected", "failed", "void", "running"]

DONE = "eventplat.done.v1"            # body: the reply's JSON
REJECTED = "eventplat.rejected.v1"    # body: {"reason": …, "status": …, "facts": {…}}
FAILED = "eventplat.failed.v1"        # body: {"error": …, "code": …}: out of attempts, nothing was applied
VOID = "eventplat.void.v1"            # body: {}: a tombstone or an expired deadline; it will never run
RUNNING = "eventplat.running.v1"      # body: {}: accepted, its saga has not ended; ask again


@dataclass(slots=True, kw_only=True)
class Envelope:
    """One message: identity, routing facts and exact body bytes. Nobody changes one: `frozen=True` would say so at twice the cost."""

    id: str                          # UUIDv7, or UUIDv8 when derived; canonical text
    type: str                        # wire name and major version, "orders.order-placed.v1"
    body: bytes
    correlation_id: str              # of the request that began the conversation: its message's id, or under a key one of its own
    causation: str | None = None     # the id of the message whose handling sent this one; of a reply: the request
    reply_to: str | None = None      # routing key on the `replies` exchange
    app_id: str | None = None        # the sending service
    user_id: str | None = None       # the sending broker user, validated by RabbitMQ
    key: str | None = None
    stream: str | None = None
    seq: int | None = None           # order within (stream, key), microseconds
    prev: int | None = None          # the seq before this one
    deadline_ms: int | None = None   # milliseconds since 1970; queries, and where stated
    undoes: str | None = None        # the id of the command this one undoes
    grant: str | None = None         # the gateway's signed statement of who asked
    traceparent: str | None = None   # W3C trace context
    v: int = 1                       # of the wire format

    @property
    def created_us(self) -> int:
        """When it was created, microseconds since 1970; the same for every copy."""
        return created_us(self.id)

    @property
    def bucket(self) -> int:
        """0..1023: of the key, else of the id."""
        return bucket_of(self.key) if self.key is not None else bucket_of_once(self.id)

    def has_expired(self, now_us: int) -> bool:
        """Whether its deadline has passed."""
        return self.deadline_ms is not None and now_us >= self.deadline_ms * 1_000
