"""Policies: which scopes are missing."""

from __future__ import annotations

import pytest

from eventplat.security.policies import missing_scopes
from eventplat.security.principal import ANONYMOUS, EVERYTHING, Principal


@pytest.mark.parametrize(
    ("has", "requires", "missing"),
    [
        (set(), [], set()),
        ({"a"}, ["a"], set()),
        ({"a", "b"}, ["a"], set()),
        ({"a"}, ["a", "b"], {"b"}),
        ({"orders"}, ["orders:write"], {"orders:write"}),
        ({"orders:*"}, ["orders:write"], {"orders:write"}),
        ({EVERYTHING}, ["a", "b"], set()),
    ],
)
def test_a_scope_is_had_by_its_whole_name_or_with_everything(has: set[str], requires: list[str], missing: set[str]) -> None:
    assert missing_scopes(Principal("ann", frozenset(has)), requires) == missing


def test_a_caller_without_a_token_has_no_scope_by_itself() -> None:
    assert missing_scopes(ANONYMOUS, ["a"]) == {"a"}
