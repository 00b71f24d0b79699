"""Forward: one HTTP request to the service that owns it, and its answer back.

    authenticate → authorise → validate → id → sign the grant → publish → wait → answer, or 202

The gateway has no database and no model classes: routes and schemas are announced, a command's id is derived from its
Idempotency-Key, and what became of it is the owner's record. When the client's wait ends the work goes on behind a 202.

Next: routing.request_reply
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from structlog.contextvars import bound_contextvars

from eventplat.broker.topology import COMMANDS, QUERIES, Names, routing_key_of
from eventplat.broker.transport import Outgoing
from eventplat.clock import Clock
from eventplat.discovery.registry import Registry
from eventplat.errors import (
    BadIdempotencyKey,
    BadToken,
    BrokerAway,
    BrokerUnavailable,
    Forbidden,
    GatewayError,
    InvalidRequest,
    NoAnswer,
    ServiceAway,
    TimedOut,
    Unroutable,
)  # fmt: skip
from eventplat.failpoints import failpoint
from eventplat.gateway.answers import RunningHere, WrongMethodHere, of_error, of_operation, of_reply, retry_after
from eventplat.gateway.http import ClientGone, Receive, Request, Scope, Send, write
from eventplat.gateway.idempotency import command_id
from eventplat.gateway.operations import Operation, OperationIds
from eventplat.gateway.problems import Headers, Reply, unexpected
from eventplat.gateway.routes import Match, Table, Target
from eventplat.gateway.validation import NAMED_MAX, Wrong, read_object
from eventplat.messages.codec import to_properties
from eventplat.messages.envelope import RUNNING, Envelope
from eventplat.messages.ids import Chance, new_id
from eventplat.routing.request_reply import Requester
from eventplat.security.grant import GrantSigner
from eventplat.security.policies import missing_scopes
from eventplat.security.principal import ANONYMOUS, EVERYTHING, Principal
from eventplat.security.tokens import TokenVerifier
from eventplat.settings import Settings

logger = logging.getLogger(__name__)

APP_ID = "gateway"
QUERY_WAIT_S_MAX = 30.0
OPERATION_WAIT_S = 5.0
KEY_CHARS_MAX = 512          # of a message's key: it travels as a header, and a header too long ends the broker's connection


@dataclass
class Forwarder:
    """Serves the announced routes."""

    settings: Settings
    names: Names
    registry: Registry
    requester: Requester
    operations: OperationIds
    signer: GrantSigner | None
    tokens: TokenVerifier | None
    clock: Clock
    chance: Chance
    user_id: str | None = None
    table: Table = Table()  # noqa: RUF009 - replaced whole when the registry changes, never changed

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answer the request if its path is announced; False: it is somebody else's."""
        request = Request(scope)
        try:
            match = self._match(request)
            if match is None:
                return False
            reply = await self._serve(request, _target(match, request.method), match.values, receive)
        except ClientGone:
            return True
        except GatewayError as error:
            reply = of_error(error)
        except Exception as error:
            logger.exception("%s %s failed", request.method, request.path)
            reply = unexpected(error)
        failpoint("gateway.before_response")
        await write(send, reply)
        return True

    def authenticate(self, authorization: str | None) -> Principal:
        """Who sends a request with this Authorization header.

        Raises:
            BadToken: A token that proves nothing, or none where one is needed.
        """
        if authorization is not None and self.tokens is not None:
            scheme, _, token = authorization.partition(" ")
            if scheme.lower() != "bearer":
                raise BadToken("the Authorization header is no Bearer token")
            return self.tokens.verify(token.strip())
        if self.settings.is_open:  # with tokens configured, a caller without one may what requires nothing
            return ANONYMOUS if self.tokens is not None else replace(ANONYMOUS, scopes=frozenset({EVERYTHING}))
        raise BadToken("this gateway answers only callers with a token")

    async def what_became_of(self, operation: Operation, traceparent: str | None) -> Reply:
        """Ask the owner of a command what became of it.

        Raises:
            ServiceAway, BrokerAway, NoAnswer: Not known now; ask again.
        """
        body = json.dumps({"command_id": operation.command_id}).encode()
        id_ = new_id(self.clock.time_us(), self.chance)
        question = self._envelope(id_, id_, f"{operation.service}.operation.v1", body, traceparent=traceparent)
        answer = await self._question(question, OPERATION_WAIT_S)
        return of_operation(answer, tells_cause=self._tells_cause)

    def _match(self, request: Request) -> Match | None:
        try:
            return self.table.match(request.path, request.method)
        except ValueError as error:
            raise InvalidRequest(f"the path cannot be read: {str(error)[:200]}") from None

    async def _serve(self, request: Request, target: Target, values: tuple[str, ...], receive: Receive) -> Reply:
        principal = self.authenticate(request.header("authorization"))
        if missing := missing_scopes(principal, target.handler.requires):
            raise Forbidden(f"missing: {', '.join(sorted(missing))}")
        fields = await self._fields(request, target, values, receive)
        target.schema.check(fields)
        if not self.registry.instances(target.service):
            raise ServiceAway(f"no instance of {target.service} has been heard lately")
        if target.is_query:
            return await self._query(request, target, fields, principal)
        return await self._command(request, target, fields, principal)

    async def _fields(self, request: Request, target: Target, values: tuple[str, ...], receive: Receive) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        parameters, body = request.query(), await request.body(receive, self.settings.body_bytes_max)
        if target.is_query:
            if body:
                raise Wrong([{"pointer": "", "detail": "a question has no body: its fields are parameters"}])
            fields = {name: target.schema.from_text(name, texts) for name, texts in parameters.items()}
        else:
            if parameters:
                unknown = list(parameters)[:NAMED_MAX]
                raise Wrong([{"pointer": f"/{name}", "detail": "a command has no parameters: send it in the body"} for name in unknown])
            if body or request.header("content-type") is not None:
                request.check_json()
                fields = read_object(body)
        for name, value in zip(target.fields, values, strict=True):
            given = target.schema.from_text(name, [value])
            if name in fields and fields[name] != given:
                raise Wrong([{"pointer": f"/{name}", "detail": "differs from the path"}])
            fields[name] = given
        return fields

    async def _command(self, request: Request, target: Target, fields: Mapping[str, Any], principal: Principal) -> Reply:
        asked = new_id(self.clock.time_us(), self.chance)  # of this request; under a key others may ask for the same work
        envelope = self._envelope_of(request, target, fields, principal, self._id(request, target, principal) or asked, asked)
        routing_key = routing_key_of(envelope.type, target.handler.stream, envelope.key)
        outgoing = Outgoing(self.names.exchange(COMMANDS), routing_key, to_properties(envelope), envelope.body)
        operation = self.operations.write(Operation(target.service, envelope.id, principal.subject))
        location = f"/operations/{operation}"
        wait_s, preference = request.wait_s(target.route.wait_s)
        failpoint("gateway.before_publish")
        with bound_contextvars(correlation_id=envelope.correlation_id):
            try:
                answer = await self._ask(outgoing, envelope.id, wait_s)
            except TimedOut:
                body = json.dumps({"operation": operation, "status": "running"}).encode()
                headers = [(b"location", location.encode()), *preference, *retry_after()]
                return Reply(202, body, headers=[*headers, *_told(envelope, operation)])
            if answer.type == RUNNING:
                raise RunningHere(location)
            return self._reply_of(answer, target, _told(envelope, operation))

    async def _query(self, request: Request, target: Target, fields: Mapping[str, Any], principal: Principal) -> Reply:
        asked = new_id(self.clock.time_us(), self.chance)
        envelope = self._envelope_of(request, target, fields, principal, asked, asked)
        wait_s, _ = request.wait_s(min(target.route.wait_s, QUERY_WAIT_S_MAX))
        with bound_contextvars(correlation_id=envelope.correlation_id):
            return self._reply_of(await self._question(envelope, wait_s), target, _told(envelope, None))

    async def _question(self, envelope: Envelope, wait_s: float) -> Envelope:
        """Ask what has no effect: a copy that nobody waits for any more is dropped on its way."""
        asked = replace(envelope, deadline_ms=self.clock.time_us() // 1_000 + int(wait_s * 1_000))
        properties = to_properties(asked, expiration_ms=int(wait_s * 1_000))
        routing_key = routing_key_of(asked.type, "-", None, is_query=True)
        outgoing = Outgoing(self.names.exchange(QUERIES), routing_key, properties, asked.body, persistent=False)
        try:
            return await self._ask(outgoing, asked.id, wait_s)
        except TimedOut:
            raise NoAnswer(f"{asked.type} was not answered in {wait_s:g} s") from None

    def _envelope_of(
        self, request: Request, target: Target, fields: Mapping[str, Any], principal: Principal, id_: str, asked: str
    ) -> Envelope:
        handler = target.handler
        key = None if handler.key_field is None else target.schema.normal_key(handler.key_field, fields.get(handler.key_field))
        if key is not None and len(key) > KEY_CHARS_MAX:
            raise Wrong([{"pointer": f"/{handler.key_field}", "detail": f"a key has at most {KEY_CHARS_MAX} characters"}])
        body = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
        stream = handler.stream if key is not None and not target.is_query else None
        return self._envelope(
            id_, asked, handler.type, body, key=key, stream=stream, grant=self._grant(principal, id_), traceparent=request.traceparent
        )

    def _envelope(self, id_: str, correlation_id: str, type_: str, body: bytes, **rest: str | None) -> Envelope:
        return Envelope(
            id=id_, type=type_, body=body, correlation_id=correlation_id, reply_to=self.requester.reply_to, app_id=APP_ID,
            user_id=self.user_id, **rest,  # type: ignore[arg-type]
        )  # fmt: skip

    def _reply_of(self, answer: Envelope, target: Target, headers: Headers) -> Reply:
        has_reply = target.handler.reply_schema is not None
        reply = of_reply(answer, status=target.route.status, has_reply=has_reply, tells_cause=self._tells_cause)
        reply.headers.extend(headers)
        return reply

    @property
    def _tells_cause(self) -> bool:
        return self.settings.profile != "production"

    async def _ask(self, outgoing: Outgoing, id_: str, wait_s: float) -> Envelope:
        try:
            return await self.requester.ask(outgoing, request_id=id_, timeout_s=wait_s, on_confirmed=_confirmed)
        except Unroutable:
            raise ServiceAway(f"no queue is bound for {outgoing.properties.type}") from None
        except BrokerUnavailable as error:
            raise BrokerAway(str(error.args[0])) from None

    def _id(self, request: Request, target: Target, principal: Principal) -> str | None:
        """The command's id where the client names the work by a key."""
        key = request.header("idempotency-key")
        if key is None:
            if target.route.idempotency_key == "required":
                raise BadIdempotencyKey("this route requires one")
            return None
        return command_id(principal.subject, f"{target.route.method} {target.route.template}", key)

    def _grant(self, principal: Principal, operation: str) -> str | None:
        return None if self.signer is None else self.signer.sign(principal, operation, self.clock.time_us() // 1_000_000)


def _confirmed() -> None:
    failpoint("gateway.after_publish")


def _target(match: Match, method: str) -> Target:
    if match.target is None:
        raise WrongMethodHere(method, ", ".join(match.methods))
    return match.target


def _told(envelope: Envelope, operation: str | None) -> Headers:
    """What a caller needs to follow its request: in our logs, in its own traces, and as an operation."""
    headers: Headers = [(b"x-correlation-id", envelope.correlation_id.encode())]
    if envelope.traceparent is not None:
        headers.append((b"traceparent", envelope.traceparent.encode()))
    if operation is not None:
        headers.append((b"operation-id", operation.encode()))
    return headers
