"""Who asks: a verified subject and its scopes. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody whose identity has been verified.

    Attributes:
        subject: Stable identifier of a user, or `service:<name>`.
        scopes: What it may do, as "orders:write".
    """

    subject: str
    scopes: frozenset[str] = field(default_factory=frozenset)


ANONYMOUS = Principal("anonymous")
"""A caller without a token, where the gateway admits such."""

EVERYTHING = "*"
"""The scope that includes all others: what an open gateway grants to callers without a token."""
