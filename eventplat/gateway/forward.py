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
from dataclasses import dataclass
from typing import Any

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
    NoAnswer,
    ServiceAway,
    StillRunning,
    TimedOut,
    Unroutable,
    WrongMethod,
)  # fmt: skip
from eventplat.failpoints import failpoint
from eventplat.gateway.http import ClientGone, Receive, Request, Scope, Send, write
from eventplat.gateway.idempotency import command_id
from eventplat.gateway.operations import Operation, OperationIds
from eventplat.gateway.problems import Headers, Reply, failed, problem, rejected, unexpected
from eventplat.gateway.routes import Match, Table, Target
from eventplat.gateway.validation import Wrong, read_object
from eventplat.messages.codec import to_properties
from eventplat.messages.envelope import DONE, FAILED, REJECTED, RUNNING, Envelope
from eventplat.messages.ids import Chance, new_id
from eventplat.routing.request_reply import Requester
from eventplat.security.grant import GrantSigner
from eventplat.security.policies import missing_scopes
from eventplat.security.principal import EVERYTHING, Principal
from eventplat.security.tokens import TokenVerifier
from eventplat.settings import Settings

logger = logging.getLogger(__name__)

APP_ID = "gateway"
RETRY_AFTER_S = 1
QUERY_WAIT_S_MAX = 30.0


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
        match = self.table.match(request.path)
        if match is None:
            return False
        try:
            reply = await self._serve(request, _target(match, request.method), match.values, receive)
        except ClientGone:
            return True
        except GatewayError as error:
            reply = _problem_of(error)
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
        if self.settings.is_open:
            return Principal("anonymous", frozenset({EVERYTHING}))
        raise BadToken("this gateway answers only callers with a token")

    async def what_became_of(self, operation: Operation, traceparent: str | None) -> Reply:
        """Ask the owner of a command what became of it."""
        type_ = f"{operation.service}.operation.v1"
        body = json.dumps({"command_id": operation.command_id}).encode()
        answer = await self._question(type_, "-", None, body, 5.0, None, traceparent)
        if answer.type == RUNNING:
            return Reply(200, b'{"status":"running"}', headers=_retry_after())
        if answer.type == DONE:
            return Reply(200, b'{"status":"done","result":' + (answer.body or b"null") + b"}")
        said = rejected(json.loads(answer.body)) if answer.type == REJECTED else _void_or_failed(answer)
        status = "rejected" if answer.type == REJECTED else "failed"
        return Reply(200, b'{"status":"' + status.encode() + b'","problem":' + said.body + b"}")

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
        if target.is_query:
            fields = {name: target.schema.from_text(name, texts) for name, texts in request.query().items()}
        else:
            body = await request.body(receive, self.settings.body_bytes_max)
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
        id_ = self._id(request, target, principal)
        handler = target.handler
        key = None if handler.key_field is None else str(fields[handler.key_field])
        envelope = Envelope(
            id=id_,
            type=handler.type,
            body=json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode(),
            correlation_id=id_,
            reply_to=self.requester.reply_to,
            app_id=APP_ID,
            user_id=self.user_id,
            key=key,
            stream=handler.stream if key is not None else None,
            grant=self._grant(principal, id_),
            traceparent=request.header("traceparent"),
        )
        routing_key = routing_key_of(handler.type, handler.stream, key)
        outgoing = Outgoing(self.names.exchange(COMMANDS), routing_key, to_properties(envelope), envelope.body)
        operation = self.operations.write(Operation(target.service, id_, principal.subject))
        headers: Headers = [(b"location", f"/operations/{operation}".encode())]
        wait_s, preference = _wait_s(request, target.route.wait_s)
        failpoint("gateway.before_publish")
        try:
            answer = await self._ask(outgoing, id_, wait_s)
        except TimedOut:
            body = json.dumps({"operation": operation, "status": "running"}).encode()
            return Reply(202, body, headers=[*headers, *preference, *_retry_after()])
        if answer.type == RUNNING:
            raise _RunningHere("its outcome is not known yet", headers)
        return _reply_of(answer, target)

    async def _query(self, request: Request, target: Target, fields: Mapping[str, Any], principal: Principal) -> Reply:
        body = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
        handler = target.handler
        key = None if handler.key_field is None else str(fields[handler.key_field])
        wait_s, _ = _wait_s(request, min(target.route.wait_s, QUERY_WAIT_S_MAX))
        try:
            answer = await self._question(handler.type, handler.stream, key, body, wait_s, principal, request.header("traceparent"))
        except TimedOut:
            raise NoAnswer(f"{target.service} did not answer in {wait_s:g} s") from None
        return _reply_of(answer, target)

    async def _question(
        self, type_: str, stream: str, key: str | None, body: bytes, wait_s: float, principal: Principal | None, traceparent: str | None
    ) -> Envelope:
        id_ = new_id(self.clock.time_us(), self.chance)
        envelope = Envelope(
            id=id_, type=type_, body=body, correlation_id=id_, reply_to=self.requester.reply_to, app_id=APP_ID, user_id=self.user_id,
            key=key, deadline_ms=self.clock.time_us() // 1_000 + int(wait_s * 1_000), traceparent=traceparent,
            grant=None if principal is None else self._grant(principal, id_),
        )  # fmt: skip
        properties = to_properties(envelope, expiration_ms=int(wait_s * 1_000))
        routing_key = routing_key_of(type_, stream, key, is_query=True)
        outgoing = Outgoing(self.names.exchange(QUERIES), routing_key, properties, body, persistent=False)
        return await self._ask(outgoing, id_, wait_s)

    async def _ask(self, outgoing: Outgoing, id_: str, wait_s: float) -> Envelope:
        try:
            answer = await self.requester.ask(outgoing, request_id=id_, timeout_s=wait_s)
        except Unroutable:
            raise ServiceAway(f"no queue is bound for {outgoing.properties.type}") from None
        except BrokerUnavailable as error:
            raise BrokerAway(str(error.args[0])) from None
        failpoint("gateway.after_publish")
        return answer

    def _id(self, request: Request, target: Target, principal: Principal) -> str:
        key = request.header("idempotency-key")
        if key is None:
            if target.route.idempotency_key == "required":
                raise BadIdempotencyKey("this route requires one")
            return new_id(self.clock.time_us(), self.chance)
        return command_id(principal.subject, f"{target.route.method} {target.route.template}", key)

    def _grant(self, principal: Principal, operation: str) -> str | None:
        return None if self.signer is None else self.signer.sign(principal, operation, self.clock.time_us() // 1_000_000)


def _target(match: Match, method: str) -> Target:
    target = match.targets.get(method)
    if target is None:
        allowed = ", ".join(sorted(match.targets))
        raise _WrongMethodHere(f"{method} is not among {allowed}", allowed)
    return target


class _WrongMethodHere(WrongMethod):
    def __init__(self, detail: str, allowed: str) -> None:
        super().__init__(detail)
        self.allowed = allowed


class _RunningHere(StillRunning):
    def __init__(self, detail: str, headers: Headers) -> None:
        super().__init__(detail)
        self.headers = headers


def _problem_of(error: GatewayError) -> Reply:
    headers: Headers = []
    if isinstance(error, BadToken):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, ServiceAway | BrokerAway | _RunningHere):
        headers += _retry_after()
    if isinstance(error, _WrongMethodHere):
        headers.append((b"allow", error.allowed.encode()))
    if isinstance(error, _RunningHere):
        headers += error.headers
    members = {"errors": error.errors} if isinstance(error, Wrong) else {}
    return problem(error, headers=headers, **members)


def _reply_of(answer: Envelope, target: Target) -> Reply:
    if answer.type == DONE:
        if target.handler.reply_schema is None:
            return Reply(204)
        return Reply(target.route.status, answer.body)
    return rejected(json.loads(answer.body)) if answer.type == REJECTED else _void_or_failed(answer)


def _void_or_failed(answer: Envelope) -> Reply:
    if answer.type == FAILED:
        return failed(json.loads(answer.body))
    return rejected({"reason": "void", "facts": {"detail": "it was undone before it ran, or came too late; it will never run"}})


def _wait_s(request: Request, longest_s: float) -> tuple[float, Headers]:
    prefer = request.header("prefer") or ""
    for part in prefer.split(","):
        name, _, value = part.strip().partition("=")
        if name.lower() == "wait" and value.isdigit() and len(value) <= 6:
            return min(float(value), longest_s), [(b"preference-applied", f"wait={value}".encode())]
    return longest_s, []


def _retry_after() -> Headers:
    return [(b"retry-after", str(RETRY_AFTER_S).encode())]
