"""Raw: exact bytes to other systems, from whatever has a unit of work: a handler's context, a client's transaction.

Next: transactions.unit_of_work
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from eventplat.messages.codec import Properties
from eventplat.retry import Duration, seconds
from eventplat.transactions.unit_of_work import UnitOfWork


class SendsRaw:
    """Has a unit of work, and so an outbox."""

    _work: UnitOfWork

    def send_raw(
        self, *, routing_key: str, body: bytes, exchange: str = "", headers: Mapping[str, Any] | None = None,
        properties: Properties | None = None, after: Duration = 0,
    ) -> str:  # fmt: skip
        """An outbox row with exact bytes for another system, sent after the commit, mandatory and confirmed; returns its id.

        What no queue is bound for is kept, and sent again until one is.

        Args:
            exchange: By default the broker's own, where the routing key is a queue's name.
            headers: Beside those of `properties`.
            properties: Content type, type, reply_to, ...; without a `message_id` it is sent under the id that is returned.

        Raises:
            NotForeign: The exchange or queue is the platform's own.
            Malformed: AMQP cannot carry it, or over the limit.
        """
        given = properties or Properties()
        given = replace(given, headers={**given.headers, **(headers or {})})
        return self._work.send_raw(exchange, routing_key, body, given, after_s=seconds(after))
