"""A letter: a message on its way out, addressed.

Next: transactions.outbox
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from eventplat.broker.transport import Outgoing
from eventplat.messages.codec import to_properties
from eventplat.messages.envelope import Envelope


@dataclass(slots=True)
class Letter:
    """A message that leaves with its transaction."""

    exchange: str
    routing_key: str
    envelope: Envelope
    is_event: bool = False
    after_us: int | None = None      # a delayed send: microseconds from now, on the database's clock
    expiration_ms: int | None = None # of a question: the broker may drop it then
    _outgoing: Outgoing | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def takes_turn(self) -> bool:
        """Whether it gets a place in its key's order; a delayed event does not, or its successors would wait for it."""
        return self.is_event and self.after_us is None and self.envelope.key is not None and self.envelope.stream is not None

    def placed(self, seq: int | None, prev: int | None) -> Letter:
        """With its place in its key's order."""
        return self if seq is None else replace(self, envelope=replace(self.envelope, seq=seq, prev=prev))

    def outgoing(self) -> Outgoing:
        """As the transport takes it; made once, for its row and for its way."""
        if self._outgoing is None:
            properties = to_properties(self.envelope, expiration_ms=self.expiration_ms)
            self._outgoing = Outgoing(self.exchange, self.routing_key, properties, self.envelope.body)
        return self._outgoing

    def to_waiting(self) -> Outgoing:
        """As an answer to a process that waits in memory: at most once, kept by nobody."""
        properties, body = to_properties(self.envelope), self.envelope.body
        return Outgoing(self.exchange, self.routing_key, properties, body, mandatory=False, persistent=False)
