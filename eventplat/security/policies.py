"""Policies: which of the required scopes a principal lacks. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from eventplat.security.principal import EVERYTHING, Principal


def missing_scopes(principal: Principal, requires: Iterable[str]) -> frozenset[str]:
    """The scopes of `requires` that `principal` does not have; empty: it may."""
    if EVERYTHING in principal.scopes:
        return frozenset()
    return frozenset(requires) - principal.scopes
