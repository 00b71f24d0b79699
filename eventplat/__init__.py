"""eventplat: exactly-once events, durable sagas, discovery and a gateway on RabbitMQ and PostgreSQL.

The public door. A name is imported when it is first used (PEP 562), so that `from eventplat import Event`
loads neither a broker nor a database. Inside the house import the file, never this door.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventplat.discovery.route import Route
    from eventplat.errors import EventplatError, Failed, Rejected, TimedOut
    from eventplat.messages.message import Command, Event, Key, Message, Query
    from eventplat.process import run
    from eventplat.retry import Retry
    from eventplat.sagas.saga import Saga
    from eventplat.service.client import Client
    from eventplat.service.context import Context, SyncContext
    from eventplat.service.handlers import Handlers
    from eventplat.service.service import Service
    from eventplat.settings import Settings

__all__ = [
    "Client",
    "Command",
    "Context",
    "Event",
    "EventplatError",
    "Failed",
    "Handlers",
    "Key",
    "Message",
    "Query",
    "Rejected",
    "Retry",
    "Route",
    "Saga",
    "Service",
    "Settings",
    "SyncContext",
    "TimedOut",
    "run",
]

_HOME = {
    "Client": "service.client",
    "Command": "messages.message",
    "Context": "service.context",
    "Event": "messages.message",
    "EventplatError": "errors",
    "Failed": "errors",
    "Handlers": "service.handlers",
    "Key": "messages.message",
    "Message": "messages.message",
    "Query": "messages.message",
    "Rejected": "errors",
    "Retry": "retry",
    "Route": "discovery.route",
    "Saga": "sagas.saga",
    "Service": "service.service",
    "Settings": "settings",
    "SyncContext": "service.context",
    "TimedOut": "errors",
    "run": "process",
}


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value  # found without this function from now on
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
