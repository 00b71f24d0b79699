"""The gateway's FastAPI app: announced routes first, then /docs, /operations, /health and whatever you add.

    app = create_app()                      # uvicorn module:app, or inside `eventplat gateway`
    @app.get("/hello") ...                  # routes and middleware of your own

Announced routes are dispatched by a trie before the framework sees them, so that a thousand of them cost nothing.

Next: gateway.forward
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from http import HTTPStatus
from random import SystemRandom
from typing import Any

from fastapi import FastAPI, Response
from fastapi import Request as FastRequest
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException

from eventplat.broker.connect import open_transport
from eventplat.broker.topology import Names
from eventplat.broker.transport import Transport
from eventplat.clock import Clock, SystemClock
from eventplat.discovery.registry import Registry
from eventplat.errors import BrokerAway, GatewayError, InvalidRequest, NoRoute, SettingsError, UnknownOperation, WrongMethod
from eventplat.gateway.answers import of_error
from eventplat.gateway.docs import add_docs
from eventplat.gateway.forward import Forwarder
from eventplat.gateway.http import Receive, Request, Scope, Send, bounded
from eventplat.gateway.openapi import Document
from eventplat.gateway.operations import OperationIds
from eventplat.gateway.problems import Reply, problem_reply, unexpected
from eventplat.gateway.routes import Table
from eventplat.gateway.validation import Wrong
from eventplat.messages.ids import Chance
from eventplat.routing.request_reply import Requester
from eventplat.security.grant import GrantSigner
from eventplat.security.keys import ensure_keys
from eventplat.security.tokens import TokenVerifier
from eventplat.settings import Settings, load

logger = logging.getLogger(__name__)


def create_app(
    settings: Settings | None = None, *, transport: Transport | None = None, clock: Clock | None = None, chance: Chance | None = None,
    beside: Sequence[str] = (),
) -> FastAPI:  # fmt: skip
    """The gateway as a FastAPI app; it connects when its lifespan begins.

    Args:
        settings: Default: from the environment.
        transport: An open one to share; default: one of its own.
        beside: Services of the same process: the first request finds them.
    """
    settings, clock = settings or load(), clock or SystemClock()
    own = transport is None
    link = transport or open_transport(settings.broker(), name="gateway", clock=clock)
    forwarder = _forwarder(settings, link, clock, chance or SystemRandom())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if own:
            await link.open()
        await forwarder.requester.start()
        await forwarder.registry.start()
        try:
            await _until_heard(forwarder.registry, beside, clock, settings.process_term_s)
            yield
        finally:
            await forwarder.registry.stop()
            await forwarder.requester.stop()
            if own:
                await link.close()

    app = FastAPI(title="eventplat", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(_AnnouncedFirst, forwarder=forwarder)
    app.state.forwarder = forwarder
    _add_routes(app, forwarder, link)
    _add_problems(app)
    add_docs(app)

    document = Document(lambda: get_openapi(title=app.title, version="1", openapi_version="3.1.0", routes=app.routes),
                        has_tokens=forwarder.tokens is not None)  # fmt: skip
    app.openapi = lambda: document.of(forwarder.table)  # type: ignore[method-assign]
    return app


async def _until_heard(registry: Registry, services: Sequence[str], clock: Clock, within_s: float) -> None:
    """Listen before answering: a route that is there and was not heard yet would be a 404."""
    until = clock.monotonic() + within_s
    while clock.monotonic() < until:
        announced = {manifest.service for manifest in registry.manifests}
        if all(service in announced and registry.instances(service) for service in services):
            return
        await clock.sleep(0.02)


class _AnnouncedFirst:
    """ASGI middleware: an announced path never reaches the framework; what does is bounded like the rest."""

    def __init__(self, app: Any, forwarder: Forwarder) -> None:
        self._app, self._forwarder = app, forwarder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif not await self._forwarder.serve(scope, receive, send):
            await self._app(scope, bounded(receive, self._forwarder.settings.body_bytes_max), send)


def _forwarder(settings: Settings, link: Transport, clock: Clock, chance: Chance) -> Forwarder:
    keys = ensure_keys(settings)
    if keys.operation_key is None or keys.grant_private_pem is None:
        raise SettingsError("the gateway needs EVENTPLAT_OPERATION_KEY and EVENTPLAT_GRANT_KEY")
    names = Names(settings.prefix)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    registry = Registry(link, names, clock, chance, term_s=settings.process_term_s, view_path=settings.data_dir / "registry.json")
    forwarder = Forwarder(
        settings=settings,
        names=names,
        registry=registry,
        requester=Requester(link, names, clock, chance),
        operations=OperationIds(keys.operation_key),
        signer=GrantSigner(keys.grant_private_pem),
        tokens=TokenVerifier(settings) if settings.jwt_key else None,
        clock=clock,
        chance=chance,
        user_id=settings.broker_user(),
    )

    def learn() -> None:
        forwarder.table = Table(registry.manifests)

    registry.on_change(learn)
    return forwarder


def _add_routes(app: FastAPI, forwarder: Forwarder, link: Transport) -> None:
    @app.get("/operations/{operation_id}", tags=["gateway"], summary="What became of a request that was answered 202")
    async def operation(operation_id: str, request: FastRequest) -> Response:
        principal = forwarder.authenticate(request.headers.get("authorization"))
        found = forwarder.operations.read(operation_id)
        if found.subject != principal.subject:
            raise UnknownOperation("this gateway has given no such id")  # as for one that is none: ids are not to be guessed
        return _response(await forwarder.what_became_of(found, Request(request.scope).traceparent))

    @app.get("/health/live", tags=["gateway"], summary="The process runs")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/health/ready", tags=["gateway"], summary="The broker takes messages")
    async def ready() -> dict[str, Any]:
        if link.state != "connected":
            raise BrokerAway(f"the link to the broker is {link.state}")
        services = {manifest.service: len(forwarder.registry.instances(manifest.service)) for manifest in forwarder.registry.manifests}
        conflicts = {"conflicts": forwarder.table.conflicts} if forwarder.table.conflicts else {}
        return {"status": "ready", "instances": services, **conflicts}


def _add_problems(app: FastAPI) -> None:
    async def known(_: FastRequest, error: Exception) -> Response:
        return _response(of_error(error) if isinstance(error, GatewayError) else unexpected(error))

    async def http(request: FastRequest, error: Exception) -> Response:
        return _http_problem(request, error) if isinstance(error, HTTPException) else _response(unexpected(error))

    async def invalid(_: FastRequest, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            return _response(unexpected(error))
        wrong = [{"pointer": "".join(f"/{part}" for part in e["loc"]), "detail": str(e["msg"])} for e in error.errors()]
        return _response(of_error(Wrong(wrong)))

    async def bug(request: FastRequest, error: Exception) -> Response:
        logger.exception("%s %s failed", request.method, request.url.path, exc_info=error)
        return _response(unexpected(error))

    app.add_exception_handler(GatewayError, known)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, bug)


def _http_problem(request: FastRequest, error: HTTPException) -> Response:
    """The problem for what the framework, or a route of your own, raises as an HTTPException."""
    known = {kind.status: kind for kind in (NoRoute, WrongMethod)}.get(error.status_code)
    if known is not None:
        reply = of_error(known(f"{request.method} {request.url.path}"))
    else:
        title = HTTPStatus(error.status_code).phrase if error.status_code in set(HTTPStatus) else "Error"
        next_move = InvalidRequest.next_move if error.status_code < 500 else GatewayError.next_move
        reply = problem_reply(error.status_code, title, GatewayError.code, str(error.detail), next_move, None, {})
    return _response(replace(reply, headers=[*reply.headers, *_bytes(error.headers or {})]))


def _bytes(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def _response(reply: Reply) -> Response:
    headers = {name.decode(): value.decode() for name, value in reply.headers}
    return Response(reply.body, reply.status, headers, media_type=reply.content_type.decode())
