"""eventplat: exactly-once events, durable sagas, discovery and a gateway on RabbitMQ and PostgreSQL.

The public door. A name is imported when it is first used (PEP 562), so that `from eventplat import Event`
loads neither a broker nor a database. Inside the house import the file, never this door.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventplat.door import opened

if TYPE_CHECKING:
    from eventplat.discovery.route import Route
    from eventplat.errors import EventplatError, Failed, Rejected, TimedOut
    from eventplat.messages.codec import Properties
    from eventplat.messages.envelope import Envelope
    from eventplat.messages.message import Command, Event, Key, Message, Query
    from eventplat.process import run
    from eventplat.retry import Duration, Retry
    from eventplat.sagas.saga import Saga
    from eventplat.security.principal import Principal
    from eventplat.service.client import Client, Transaction
    from eventplat.service.context import Context, SyncContext
    from eventplat.service.handlers import Handlers
    from eventplat.service.service import Middleware, Next, Service
    from eventplat.settings import Settings

__all__ = [
    "Client",
    "Command",
    "Context",
    "Duration",
    "Envelope",
    "Event",
    "EventplatError",
    "Failed",
    "Handlers",
    "Key",
    "Message",
    "Middleware",
    "Next",
    "Principal",
    "Properties",
    "Query",
    "Rejected",
    "Retry",
    "Route",
    "Saga",
    "Service",
    "Settings",
    "SyncContext",
    "TimedOut",
    "Transaction",
    "run",
]

_HOME = {
    "Client": "service.client",
    "Command": "messages.message",
    "Context": "service.context",
    "Duration": "retry",
    "Envelope": "messages.envelope",
    "Event": "messages.message",
    "EventplatError": "errors",
    "Failed": "errors",
    "Handlers": "service.handlers",
    "Key": "messages.message",
    "Message": "messages.message",
    "Middleware": "service.service",
    "Next": "service.service",
    "Principal": "security.principal",
    "Properties": "messages.codec",
    "Query": "messages.message",
    "Rejected": "errors",
    "Retry": "retry",
    "Route": "discovery.route",
    "Saga": "sagas.saga",
    "Service": "service.service",
    "Settings": "settings",
    "SyncContext": "service.context",
    "TimedOut": "errors",
    "Transaction": "service.client",
    "run": "process",
}

__getattr__, __dir__ = opened(__name__, _HOME)
