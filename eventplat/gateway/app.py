"""The gateway's FastAPI app: announced routes first, then /docs, /operations, /health and whatever you add.

    app = create_app()                      # uvicorn module:app, or inside `eventplat gateway`
    @app.get("/hello") ...                  # routes and middleware of your own

Announced routes are dispatched by a trie before the framework sees them, so that a thousand of them cost nothing.

Next: gateway.forward
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import SystemRandom
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Response
from fastapi import Request as FastRequest
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException

from eventplat.broker.connect import open_transport
from eventplat.broker.topology import Names
from eventplat.broker.transport import Transport
from eventplat.clock import Clock, SystemClock
from eventplat.discovery.registry import Registry
from eventplat.errors import BadToken, BrokerAway, GatewayError, NoAnswer, NoRoute, SettingsError, TimedOut, UnknownOperation, WrongMethod
from eventplat.gateway.docs import add_docs
from eventplat.gateway.forward import Forwarder
from eventplat.gateway.http import Receive, Scope, Send
from eventplat.gateway.openapi import with_routes
from eventplat.gateway.operations import OperationIds
from eventplat.gateway.problems import Reply, problem, unexpected
from eventplat.gateway.routes import Table
from eventplat.messages.ids import Chance
from eventplat.routing.request_reply import Requester
from eventplat.security.grant import GrantSigner
from eventplat.security.keys import ensure_keys
from eventplat.security.tokens import TokenVerifier
from eventplat.settings import Settings, load

logger = logging.getLogger(__name__)


def create_app(
    settings: Settings | None = None, *, transport: Transport | None = None, clock: Clock | None = None, chance: Chance | None = None
) -> FastAPI:
    """The gateway as a FastAPI app; it connects when its lifespan begins.

    Args:
        settings: Default: from the environment.
        transport: An open one to share; default: one of its own.
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

    def openapi() -> dict[str, Any]:
        return with_routes(get_openapi(title=app.title, version="1", openapi_version="3.1.0", routes=app.routes), forwarder.table.targets)

    app.openapi = openapi  # type: ignore[method-assign]
    return app


class _AnnouncedFirst:
    """ASGI middleware: an announced path never reaches the framework."""

    def __init__(self, app: Any, forwarder: Forwarder) -> None:
        self._app, self._forwarder = app, forwarder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not await self._forwarder.serve(scope, receive, send):
            await self._app(scope, receive, send)


def _forwarder(settings: Settings, link: Transport, clock: Clock, chance: Chance) -> Forwarder:
    keys = ensure_keys(settings)
    if keys.operation_key is None or keys.grant_private_pem is None:
        raise SettingsError("the gateway needs EVENTPLAT_OPERATION_KEY and EVENTPLAT_GRANT_KEY")
    names = Names(settings.prefix)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    registry = Registry(link, names, clock, term_s=settings.process_term_s, view_path=settings.data_dir / "registry.json")
    forwarder = Forwarder(
        settings=settings,
        names=names,
        registry=registry,
        requester=Requester(link, names, clock),
        operations=OperationIds(keys.operation_key),
        signer=GrantSigner(keys.grant_private_pem),
        tokens=TokenVerifier(settings) if settings.jwt_key else None,
        clock=clock,
        chance=chance,
        user_id=urlsplit(settings.broker()).username,
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
            raise UnknownOperation("another caller's")
        try:
            return _response(await forwarder.what_became_of(found, request.headers.get("traceparent")))
        except TimedOut:
            raise NoAnswer(f"{found.service} did not answer") from None

    @app.get("/health/live", tags=["gateway"], summary="The process runs")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/health/ready", tags=["gateway"], summary="The broker takes messages")
    async def ready() -> dict[str, Any]:
        if link.state != "connected":
            raise BrokerAway(f"the link to the broker is {link.state}")
        services = {manifest.service: len(forwarder.registry.instances(manifest.service)) for manifest in forwarder.registry.manifests}
        return {"status": "ready", "instances": services}


def _add_problems(app: FastAPI) -> None:
    async def known(_: FastRequest, error: Exception) -> Response:
        headers = [(b"www-authenticate", b"Bearer")] if isinstance(error, BadToken) else []
        return _response(problem(error, headers=headers) if isinstance(error, GatewayError) else unexpected(error))

    async def http(request: FastRequest, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        if status == WrongMethod.status:
            return _response(problem(WrongMethod(f"{request.method} {request.url.path}")))
        if status == NoRoute.status:
            return _response(problem(NoRoute(f"{request.method} {request.url.path}")))
        raise error

    async def bug(request: FastRequest, error: Exception) -> Response:
        logger.exception("%s %s failed", request.method, request.url.path, exc_info=error)
        return _response(unexpected(error))

    app.add_exception_handler(GatewayError, known)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, bug)


def _response(reply: Reply) -> Response:
    headers = {name.decode(): value.decode() for name, value in reply.headers}
    return Response(reply.body, reply.status, headers, media_type=reply.content_type.decode())
