"""Instances and manifests: who is there, and what it can do. Pure values.

An instance says every 2 s that it lives (a heartbeat: small, with its manifest's digest) and expires 6 s
after its last one. The manifest behind a digest is sent at start and on request, so that a gateway that
has seen a digest needs to hear it only once.

Next: discovery.announcer, discovery.registry
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from eventplat.messages.message import MessageKind


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class AnnouncedRoute(_Value):
    """A route as it is announced: see `discovery.route.Route`."""

    method: str
    template: str
    status: int
    wait_s: float
    idempotency_key: Literal["accepted", "required"]


class AnnouncedHandler(_Value):
    """One handler of a service, with everything a gateway needs to serve it."""

    name: str                                # identity: "stock.reserve-stock"
    kind: MessageKind
    type: str                                # wire type: "stock.reserve-stock.v1"
    reads: tuple[str, ...] = Field(default=(), exclude_if=lambda reads: not reads)   # other types that it takes: older versions, names
    stream: str
    key_field: str | None
    schema_: dict[str, Any]                  # JSON schema of the message, additional properties refused
    reply_schema: dict[str, Any] | None      # of the reply; None where it only acknowledges
    requires: tuple[str, ...] = ()
    route: AnnouncedRoute | None = None
    summary: str = ""                        # first line of the handler's docstring
    is_saga: bool = False


class Manifest(_Value):
    """What one release of a service can do."""

    service: str
    version: str
    handlers: tuple[AnnouncedHandler, ...]

    @property
    def digest(self) -> str:
        """16 hexadecimal digits: the same manifest, the same digest."""
        return digest_of(self.model_dump_json().encode())


def digest_of(said: bytes) -> str:
    """The digest of a manifest as it was said: another release may have said more than this one reads."""
    return blake2b(said, digest_size=8).hexdigest()


class Heartbeat(_Value):
    """An instance that says it is there."""

    service: str
    version: str
    instance: str                            # the process's id, a UUID
    digest: str                              # of its manifest
    state: Literal["ready", "draining", "stopped"]
    in_flight: int = 0                       # messages being handled
