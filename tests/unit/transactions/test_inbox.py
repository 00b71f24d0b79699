"""Inbox: which body was settled, and the reply that tells how."""

from __future__ import annotations

import pytest

from eventplat.hashing import body_hash
from eventplat.transactions.inbox import Settled


def test_another_body_under_the_same_id_is_told() -> None:
    settled = Settled("done", body_hash(b'{"a":1}'), None)

    assert not settled.has_other_body(b'{"a":1}')
    assert settled.has_other_body(b'{"a":1} ')
    assert settled.has_other_body(b"")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"a":1}'])
def test_a_tombstone_fits_any_body_since_its_command_was_never_seen(body: bytes) -> None:
    assert not Settled("void", None, None).has_other_body(body)
