"""A handler, as it was declared, and what has to hold of it.

Next: service.endpoint
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

from eventplat.broker.partitions import PARTITIONS_MAX
from eventplat.discovery.route import Route
from eventplat.errors import BadHandler
from eventplat.messages.foreign import ForeignQueue
from eventplat.messages.message import Message
from eventplat.retry import Retry
from eventplat.service.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Handler:
    """One declared handler of a message."""

    message: type[Message]
    function: Callable[..., Any]
    name: str | None                       # identity as given; default: derived from service and message
    formerly: tuple[str, ...] = ()         # names that it had, the oldest first
    route: Route | None = None
    requires: tuple[str, ...] = ()
    owner: str | None = None
    start: Literal["now", "beginning"] | datetime = "now"
    ordered: bool = False
    partitions: int = 1                    # of an ordered handler: queues that instances share
    concurrency: int | None = None
    batch: int = 1
    retry: Retry | None = None
    timeout_s: float = 60.0
    is_saga: bool = False
    saga_id: str | None = None             # the field of the command that names the saga
    saga_version: int = 1
    saga_timeout_s: float | None = None
    is_late: bool = False                  # the transaction begins when it is first needed
    foreign: ForeignQueue | None = None    # it takes no message of ours: `message` only stands in

    @cached_property
    def is_async(self) -> bool:
        """Whether it runs on the loop; a `def` runs in a thread."""
        return inspect.iscoroutinefunction(self.function)

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


@dataclass(frozen=True, kw_only=True)
class Tick:
    """One declared periodic function."""

    function: Callable[..., Awaitable[None]]
    schedule: Schedule

    @property
    def name(self) -> str:
        """Of its row in `tick`: the function's name."""
        return self.function.__name__.replace("_", "-")


def check(handler: Handler) -> None:
    """Refuse what does not go together.

    Raises:
        BadHandler: With what, and what does.
    """
    if handler.start != "now":
        raise BadHandler(f"{handler.function.__qualname__}: start={handler.start!r} is not built yet; only start=\"now\" is")
    if handler.batch > 1 and handler.message.kind == "query":
        raise BadHandler(f"{handler.function.__qualname__}: batch= goes with commands and with events")
    if handler.ordered and handler.message.kind != "event":
        raise BadHandler(f"{handler.function.__qualname__}: only events are numbered, so only a subscription can be ordered=True")
    _check_partitions(handler)
    if handler.is_late and (handler.ordered or handler.batch > 1 or not handler.is_async):
        raise BadHandler(f"{handler.function.__qualname__}: transaction=\"late\" goes with an `async def`, without ordered= and batch=")
    if handler.is_saga and not handler.is_async:
        raise BadHandler(f"{handler.function.__qualname__}: a saga is an `async def`")
    if handler.saga_id is not None and handler.saga_id not in handler.message.model_fields:
        raise BadHandler(f"{handler.message.__name__} has no field {handler.saga_id!r} to name its saga by")
    if handler.batch < 1 or (handler.concurrency is not None and handler.concurrency < 1):
        raise BadHandler(f"{handler.function.__qualname__}: batch and concurrency count from 1")


def _check_partitions(handler: Handler) -> None:
    if not 1 <= handler.partitions <= PARTITIONS_MAX:
        raise BadHandler(f"{handler.function.__qualname__}: partitions= is 1..{PARTITIONS_MAX}, as many as keys have lanes")
    if handler.partitions > 1 and not handler.ordered:
        raise BadHandler(f"{handler.function.__qualname__}: partitions= goes with ordered=True; one queue serves all without")
    if handler.partitions > 1 and handler.message.key_field is None:
        raise BadHandler(f"{handler.message.__name__} has no Key[...] field to spread its events over partitions by")
    if handler.name is not None and re.search(r"\.p\d\d$", handler.name):
        raise BadHandler(f"{handler.function.__qualname__}: {handler.name!r} is what a partition's queue is named. Name it otherwise")
