"""Versions: one message class reads what older code sends, and what newer code calls otherwise. Pure.

A message is known on the wire by its name and major version. A class reads its own, the names it had (`formerly=`), and those
of every class that upcasters lead from, over any number of versions: v1 → v2 → v3. Within a version nothing of this is needed:
unknown fields are ignored, and a field that is new has a default.

Next: messages.envelope
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from eventplat.errors import Malformed
from eventplat.messages.codec import parse
from eventplat.messages.message import Message, WireName

Lift = Callable[[Any], Any]


@dataclass(frozen=True)
class Reading:
    """One wire name that a message class reads, and how it becomes that class."""

    wire: WireName
    message: type[Message]                # whose JSON it is
    steps: tuple[Lift, ...] = ()          # upcasters, the oldest first

    def is_of(self, type_: str, owner: str | None) -> bool:
        """Whether `type_` is this wire name, where `owner` owns what names none; None: whoever it is."""
        owner = self.wire.owner or owner
        if owner is not None:
            return type_ == self.wire.type_under(owner)
        return type_.partition(".")[2] == f"{self.wire.name}.v{self.wire.version}"

    def read(self, body: bytes) -> Message:
        """The message in `body`, as the newest class.

        Raises:
            Malformed: It is none, or an upcaster made none of it.
        """
        return self.lift(parse(_adapter(self.message), body))

    def lift(self, message: Message) -> Message:
        """`message`, which is one of `self.message`, as the newest class.

        Raises:
            Malformed: An upcaster made no message of it.
        """
        for step in self.steps:
            try:
                message = step(message)
            except ValidationError as error:
                raise Malformed(f"{step.__qualname__} makes no message of {self.wire.name}.v{self.wire.version}: {error}") from None
        return message


def readings(message: type[Message]) -> tuple[Reading, ...]:
    """Everything that `message` reads: its own name first, then its former names, then older classes with theirs, the nearest first."""
    found: dict[WireName, Reading] = {}
    _collect(message, (), found)
    return tuple(found.values())


def read(message: type[Message], type_: str, body: bytes) -> Message:
    """The message in `body` as a `message`, whoever owns it.

    Args:
        type_: As it came on the wire.

    Raises:
        Malformed: `type_` is none that `message` reads, or `body` is not one.
    """
    for reading in readings(message):
        if reading.is_of(type_, type_.partition(".")[0]):
            return reading.read(body)
    raise Malformed(f"{type_} is nothing that a {message.__name__} is read from")


def lift(given: Message, message: type[Message]) -> Message:
    """`given` as a `message`, which is its class or is made of it."""
    for reading in readings(message):
        if reading.message is type(given):
            return reading.lift(given)
    raise Malformed(f"a {type(given).__name__} does not become a {message.__name__}")


def _collect(message: type[Message], steps: tuple[Lift, ...], found: dict[WireName, Reading]) -> None:
    for wire in (message.wire, *message.former):
        found.setdefault(wire, Reading(wire, message, steps))
    for older, upcaster in message.upcasters.items():
        _collect(older, (upcaster, *steps), found)


@cache
def _adapter(message: type[Message]) -> TypeAdapter[Any]:
    return TypeAdapter(message)
