"""Logs: structured, one line a record, as text for people or JSON for machines.

Standard logging and structlog meet in one formatter; a record carries whatever was bound (message id, correlation id).
Values are cut at 4 KiB and control characters escaped, so that nobody's input can forge a line. Passwords in URLs, bearer
tokens and whatever is called a password, token, secret or private key are replaced wherever they stand.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

import structlog

from eventplat.messages.envelope import Envelope
from eventplat.settings import Settings

VALUE_CHARS_MAX = 4_096
HIDDEN = "***"
_IN_URL = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")
_BEARER = re.compile(r"\b(bearer\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_NAMED = re.compile(r"password|passwd|secret|authorization|(^|_)(token|pem|grant)$|(api|grant|jwt|operation|private)_key$", re.IGNORECASE)
_HANDLED: ContextVar[tuple[Envelope, str] | None] = ContextVar("handled", default=None)
QUIETER = ("alembic", "uvicorn.error", "httpx", "httpcore")
SILENT = ("pika",)   # four lines for each refused connection; `broker.rabbitmq_connection` says it in one


def configure(settings: Settings) -> None:
    """Send all logs of this process to standard error, as the settings say."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        with_message,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        without_secrets,
        _bounded,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    is_json = settings.log_format == "json"
    last = structlog.processors.JSONRenderer() if is_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in QUIETER:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL)


class logged_as:  # noqa: N801 - `with logged_as(...)`
    """Whatever is logged inside, by whomever, names the message, its conversation and its handler.

    One context variable for the three, read when something is logged: binding each cost every message more than its decoding.
    """

    __slots__ = ("_said", "_token")

    def __init__(self, envelope: Envelope, handler: str) -> None:
        self._said = (envelope, handler)

    def __enter__(self) -> None:
        self._token = _HANDLED.set(self._said)

    def __exit__(self, *_: object) -> None:
        _HANDLED.reset(self._token)


def with_message(_: Any, __: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The record with what `logged_as` says; what is bound by name stands."""
    if (handled := _HANDLED.get()) is not None:
        envelope, handler = handled
        for name, value in (("message_id", envelope.id), ("correlation_id", envelope.correlation_id), ("handler", handler)):
            record.setdefault(name, value)
    return record


def without_secrets(_: Any, __: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The record with secrets replaced: by the name of a value, or by the look of it."""
    for name, value in record.items():
        if _NAMED.search(name):
            record[name] = HIDDEN
        elif isinstance(value, str):
            record[name] = _BEARER.sub(rf"\1{HIDDEN}", _IN_URL.sub(f"{HIDDEN}:{HIDDEN}", value))
    return record


def _bounded(_: Any, __: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in record.items():
        if isinstance(value, str) and name != "exception":
            cut = value if len(value) <= VALUE_CHARS_MAX else f"{value[:VALUE_CHARS_MAX]}…"
            record[name] = cut if cut.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in cut)
    return record
