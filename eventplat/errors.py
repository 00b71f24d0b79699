"""The error tree: what happened, why as far as observed, and the next move.

Every error has a stable code, the same in the terminal, the log and problem+json. The hundreds name
the room: EP1 messages, EP2 broker, EP3 storage, EP4 coordination, EP5 transactions, EP6 sagas,
EP7 service, EP8 gateway, EP9 settings and process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

JSON: TypeAlias = Any
"""Whatever `json.dumps` takes: None, bool, int, float, str, list, dict."""


class EventplatError(Exception):
    """The root. `code` is stable; `next_move` is one sentence that says what to do now."""

    code: ClassVar[str] = "EP000"
    next_move: ClassVar[str] = "Look for this code in the log"

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text} [{self.code}]" if not self.next_move else f"{text}. {self.next_move} [{self.code}]"


class Rejected(EventplatError):
    """A business "no": never retried, a saga compensates, HTTP answers it as a problem.

    Args:
        reason: A stable machine-readable word, as "out_of_stock".
        status: HTTP status of the problem, 400..499.
        facts: JSON-serialisable details for the caller; `detail` is a sentence of what happened, `next` one of what to do now.
    """

    code = "EP700"
    next_move = "Read the reason and its facts: what was asked must change, the same again is refused again"

    def __init__(self, reason: str, *, status: int = 409, **facts: JSON) -> None:
        super().__init__(reason if not facts else f"{reason} {facts}")
        self.reason, self.status, self.facts = reason, status, facts

    def __str__(self) -> str:
        return str(self.args[0])


class TimedOut(EventplatError):
    """No answer in time. Unknown: it may have happened. Not a `Rejected`."""

    code = "EP701"
    next_move = "Ask again under the same id: it runs at most once"


class Failed(EventplatError):
    """The other side ran out of attempts: its message is a dead letter, nothing was applied."""

    code = "EP702"
    next_move = "Mend the handler and replay its dead letter"


# --- EP1 messages ---------------------------------------------------------------------------------


class MessageError(EventplatError):
    """A message class or a message is not as the wire needs it."""

    code = "EP100"
    next_move = "Compare the message with the class it is meant for"


class BadMessageClass(MessageError):
    """A message class is declared in a way that cannot be sent."""

    code = "EP101"
    next_move = "Mend the class: it is checked when its module is imported"


class Malformed(MessageError):
    """Bytes from the wire that are not a message: parked with their reason, never retried."""

    code = "EP102"
    next_move = "Mend its sender: the same bytes are refused again"


class UnknownType(Malformed):
    """An event of a name or version that this release does not know: a newer one may, so it waits in `pending` for a while."""

    code = "EP105"
    next_move = "Let every instance run the newer release, declare an upcaster, or give the handler of the other version a name="


class TooLarge(Malformed):
    """A body over the size or depth limit."""

    code = "EP103"
    next_move = "Send less at a time, or where it can be fetched"


class NoOwner(MessageError):
    """Nobody says which service owns this message, so it has no routing key."""

    code = "EP104"
    next_move = 'Name it with its owner: class PlaceOrder(Command, name="orders.place-order")'


# --- EP2 broker -----------------------------------------------------------------------------------


class BrokerError(EventplatError):
    """The broker refused, or could not be reached."""

    code = "EP200"
    next_move = "Look into the broker's log for the reason"


class BrokerUnavailable(BrokerError):
    """Not connected, or not settled in time: what was sent may have arrived. Send again under the same id.

    Args:
        outcomes: Of a batch: what is known of each message, None where nothing is.
    """

    code = "EP201"
    next_move = "See that the broker runs, and that EVENTPLAT_BROKER_URL names it"

    def __init__(self, message: str = "", *, outcomes: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.outcomes = outcomes


class Unroutable(BrokerError):
    """A mandatory message came back: no queue is bound for it."""

    code = "EP202"
    next_move = "Start the service that handles it, or run `eventplat topology apply`"


class TopologyMissing(BrokerError):
    """An exchange or queue that this process needs is not there."""

    code = "EP203"
    next_move = "Run `eventplat topology apply` before the processes of this release start"


class ForeignQueueMissing(TopologyMissing):
    """A queue that another system is to declare is not there."""

    code = "EP206"
    next_move = "Start the system that declares it, or mend queue=: eventplat never declares what it did not make"


class TopologyMismatch(BrokerError):
    """A queue or exchange exists with other arguments, which cannot be changed in place."""

    code = "EP204"
    next_move = "Drain and delete it, then run `eventplat topology apply`"


class EmbeddedBrokerBusy(BrokerError):
    """Another process has the embedded broker's journal open."""

    code = "EP205"
    next_move = "The embedded broker is for one process: stop the other one, or use RabbitMQ"


# --- EP3 storage ----------------------------------------------------------------------------------


class StorageError(EventplatError):
    """The database refused, or could not be reached."""

    code = "EP300"
    next_move = "Look into the database's log for the reason"


class DatabaseUnavailable(StorageError):
    """The database cannot be reached, or does not take writes. Not an attempt: nothing was counted."""

    code = "EP301"
    next_move = "See that the database runs and takes writes: the work comes again by itself"


class CommitUnknown(StorageError):
    """The connection was lost during COMMIT: it may or may not have happened. Redelivery and the relay decide."""

    code = "EP302"
    next_move = "Wait: redelivery and the relay find out which"


class SchemaOutdated(StorageError):
    """The database's tables are not those of this release."""

    code = "EP303"
    next_move = "Run `eventplat db upgrade`"


class TransactionAborted(StorageError):
    """A statement failed and its error was swallowed: PostgreSQL commits nothing after that, so neither do we."""

    code = "EP304"
    next_move = "Let the error out, or confine the statement: async with ctx.db.begin_nested()"


class NotYourTransaction(StorageError):
    """A handler's session belongs to the platform's transaction: it is begun and ended outside the handler."""

    code = "EP305"
    next_move = "Return to commit, raise to roll back, and use ctx.db.begin_nested() for a part that may fail"


class IdleTooLong(StorageError):
    """A transaction stood open between two statements for longer than the database allows, and was rolled back."""

    code = "EP306"
    next_move = "Do slow work before the first use of ctx.db, or give the handler the timeout= that it needs"


# --- EP4 coordination -----------------------------------------------------------------------------


class CoordinationError(EventplatError):
    """What several processes agree on did not hold."""

    code = "EP400"
    next_move = "Look at eventplat_lease in the service's database: it says who holds what, and until when"


class StaleLease(CoordinationError):
    """This process acted on a lease that it holds no longer: nothing was written.

    Args:
        held: The token it acted with; None where it never held the lease.
        current: The one that has been written with since, where that is known.
    """

    code = "EP401"
    next_move = "Step down and stand again: whoever holds it now goes on with the work"

    def __init__(self, *, lease: str, held: int | None, current: int | None = None) -> None:
        has = f"this process {'does not hold it' if held is None else f'had token {held}'}"
        now = "its term has run out" if held is not None else "take it first"
        super().__init__(f"lease {lease!r}: {has}, {now if current is None else f'the current one is {current}'}")
        self.lease, self.held, self.current = lease, held, current


# --- EP5 transactions -----------------------------------------------------------------------------


class TransactionError(EventplatError):
    """A rule of the unit of work was broken."""

    code = "EP500"
    next_move = "Move what the error names out of the transaction"


class CallInsideTransaction(TransactionError):
    """Waiting for another service inside an open transaction deadlocks pools and SQLite's one writer."""

    code = "EP501"
    next_move = "Make it a saga step, or declare the handler with transaction='late' and ask before touching ctx.db"


class OtherBody(TransactionError):
    """A message id came a second time with another body: refused, the first stands."""

    code = "EP502"
    next_move = "Send another message under an id, or Idempotency-Key, of its own"


class NotForeign(TransactionError):
    """Raw bytes for an exchange of the platform: they would be in nobody's log and under nobody's contract."""

    code = "EP503"
    next_move = "Publish or send a message class; send_raw is for exchanges and queues of other systems"


class NoSuchMessage(TransactionError):
    """No message stands where an operator looks for it: it was settled, discarded or never here, or the id is another's."""

    code = "EP520"
    next_move = "Look with `eventplat dlq list --state any`; one id may stand in several handlers, which --handler tells apart"


class NotReplayable(TransactionError):
    """A dead letter that would do harm, or nothing, were it run again."""

    code = "EP521"
    next_move = "Discard it, or ask its sender to send another one"


class BadEdit(TransactionError):
    """The new body of a dead letter is not one that its handler would take."""

    code = "EP522"
    next_move = "Compare it with the message class; `--dry-run` shows what would change"


# --- EP6 sagas ------------------------------------------------------------------------------------


class SagaError(EventplatError):
    """A saga did something that cannot be replayed."""

    code = "EP600"
    next_move = "Mend the saga: it goes on with a fixed deploy, nothing was undone"


class Diverged(SagaError):
    """A replay asked something else at a recorded path: the saga waits for the operator, nothing was sent."""

    code = "EP601"
    next_move = "Deploy code that replays the recorded history (if saga.version >= 2: ...)"


class ForeignAwait(SagaError):
    """A saga awaited something that is not a saga step."""

    code = "EP602"
    next_move = "Await only saga.call, gather, sleep, wait_for and lock; put I/O into a handler"


class TooManySteps(SagaError):
    """A saga's history reached its limit of 1,000 steps."""

    code = "EP603"
    next_move = "Start a sub-saga for the rest"


# --- EP7 service ----------------------------------------------------------------------------------


class ServiceError(EventplatError):
    """A service is declared in a way that cannot run."""

    code = "EP710"
    next_move = "Mend the declaration: it is checked before anything starts"


class BadHandler(ServiceError):
    """A handler's signature, route or message does not fit."""

    code = "EP711"
    next_move = "Mend the declaration: it is checked before anything starts"


class HandlerCancelled(ServiceError):
    """A handler let a cancellation out that was not meant for it: it awaited a task that somebody cancelled."""

    code = "EP713"
    next_move = "Catch asyncio.CancelledError where the handler awaits a task of its own"


class NoDatabase(ServiceError):
    """The service was declared with database=False: it has no transaction, no session and no outbox."""

    code = "EP714"
    next_move = "Leave database=False out of its Service(...), or do without ctx.db, after= and ctx.cancel"


class NotSent(ServiceError):
    """The broker did not take what a handler without a database sent: the attempt has failed and runs again."""

    code = "EP715"
    next_move = "Start the service that owns the command, or run `eventplat topology apply`"


class NoSuchService(ServiceError):
    """The named module holds no Service."""

    code = "EP712"
    next_move = "Name a module with one Service, as `eventplat run services.stock` or `eventplat dev app.py`"


class NoSuchHandler(ServiceError):
    """No service here has a handler of this name."""

    code = "EP716"
    next_move = "See `eventplat handlers list` for those there are"


# --- EP9 settings and process ---------------------------------------------------------------------


class SettingsError(EventplatError):
    """A setting is missing, malformed or contradicts another."""

    code = "EP900"
    next_move = "Mend the environment and start again"


# --- EP8 gateway and security: each is answered as a problem with its `status` ---------------------


class GatewayError(EventplatError):
    """A request that the gateway answers by itself."""

    code = "EP800"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "The gateway failed"
    next_move = "Try again; if it stays, look for this code in the gateway's log"


class BadToken(GatewayError):
    """A token or grant that proves nothing."""

    code, status, title = "EP801", 401, "Not authenticated"
    next_move = "Send a valid token as `Authorization: Bearer …`"


class Forbidden(GatewayError):
    """The caller lacks a scope that the route requires."""

    code, status, title = "EP802", 403, "Not allowed"
    next_move = "Ask for a token with the scopes that are named"


class NoRoute(GatewayError):
    """No service announces this path."""

    code, status, title = "EP803", 404, "No such route"
    next_move = "See /docs for the routes there are"


class WrongMethod(GatewayError):
    """The path is there, but not for this method."""

    code, status, title = "EP804", 405, "Method not allowed"
    next_move = "Use one of the methods in the Allow header"


class StillRunning(GatewayError):
    """A request under the same Idempotency-Key has not ended."""

    code, status, title = "EP805", 409, "Still running"
    next_move = "Follow the Location header, or send it again later under the same key"


class BodyTooLarge(GatewayError):
    """The request's body is over the limit."""

    code, status, title = "EP806", 413, "Body too large"
    next_move = "Send less at a time"


class NotJson(GatewayError):
    """The request's content type is not JSON."""

    code, status, title = "EP807", 415, "Content type is not JSON"
    next_move = "Send `Content-Type: application/json`"


class UnreadableJson(GatewayError):
    """The request's body is not JSON that can be read."""

    code, status, title = "EP808", 400, "Body is not readable JSON"
    next_move = "Send one JSON object, in UTF-8, without duplicate names, NaN or numbers over 18 digits"


class InvalidRequest(GatewayError):
    """The request does not fit the announced schema."""

    code, status, title = "EP809", 422, "Request does not fit its schema"
    next_move = "Mend the fields that are named; /docs shows the schema"


class BadIdempotencyKey(GatewayError):
    """The Idempotency-Key is missing where it is required, or malformed."""

    code, status, title = "EP810", 400, "Idempotency-Key is missing or malformed"
    next_move = "Send 1 to 255 visible ASCII characters, a new one for each new request"


class ServiceAway(GatewayError):
    """No instance of the service is there to answer."""

    code, status, title = "EP811", 503, "Service is away"
    next_move = "Send it again after Retry-After seconds, under the same Idempotency-Key"


class BrokerAway(GatewayError):
    """The broker did not take the message in time: it may have arrived all the same."""

    code, status, title = "EP812", 503, "Broker is away"
    next_move = "Send it again after Retry-After seconds, under the same Idempotency-Key"


class GatewayFull(GatewayError):
    """As many requests are being answered as this gateway answers at once."""

    code, status, title = "EP815", 503, "The gateway is full"
    next_move = "Send it again after Retry-After seconds, under the same Idempotency-Key"


class NoAnswer(GatewayError):
    """A question was not answered in time."""

    code, status, title = "EP813", 504, "No answer in time"
    next_move = "Ask again: a question has no effect"


class UnknownOperation(GatewayError):
    """The operation id is not one of this gateway's, or another caller's."""

    code, status, title = "EP814", 404, "Unknown operation"
    next_move = "Use the Location that a 202 gave you, with the same token"
