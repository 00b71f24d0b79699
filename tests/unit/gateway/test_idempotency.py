"""The command's id: one (caller, route, key), one id, for ever and on every replica."""

from __future__ import annotations

from uuid import UUID

import pytest

from eventplat.errors import BadIdempotencyKey
from eventplat.gateway.idempotency import command_id
from eventplat.messages.ids import created_us, is_id, new_id

KEY = "order-4711"


def test_the_id_never_changes() -> None:
    assert command_id("ann", "POST /orders", KEY) == "00000000-0000-864a-b5ce-85c105b3a738"
    assert command_id("ann", "POST /orders", "018f3c2a-9d00-7abc-8def-0123456789ab") == "018f3c2a-9d00-89a6-8323-9c7f47106382"


def test_another_caller_route_or_key_is_another_command() -> None:
    ids = {
        command_id(subject, route, key)
        for subject in ("ann", "bob", "ann\x1fPOST /orders", "")
        for route in ("POST /orders", "PUT /orders", "POST /orders/{order_id}")
        for key in (KEY, "order-4712", KEY.upper(), "x")
    }

    assert len(ids) == 4 * 3 * 4


def test_it_is_a_derived_uuid_that_carries_the_keys_own_time_if_it_has_one() -> None:
    timed = new_id(1_700_000_000_000_000, _Zero())

    assert is_id(command_id("ann", "POST /orders", KEY))
    assert UUID(command_id("ann", "POST /orders", KEY)).version == 8
    assert created_us(command_id("ann", "POST /orders", KEY)) == 0
    assert created_us(command_id("ann", "POST /orders", timed)) == 1_700_000_000_000_000
    assert created_us(command_id("ann", "POST /orders", "8c2f9d0e-5f1a-4b8e-9a55-0123456789ab")) == 0  # a version 4 has none


@pytest.mark.parametrize("key", ["!", "~", "a" * 255, "a:b/c?d", '"quoted"'])
def test_visible_ascii_is_a_key(key: str) -> None:
    assert is_id(command_id("ann", "POST /orders", key))


@pytest.mark.parametrize("key", ["", " ", "a b", "a" * 256, "é", "a\n", "a\x00", "\x7f", "\x1f"])
def test_anything_else_is_not(key: str) -> None:
    with pytest.raises(BadIdempotencyKey):
        command_id("ann", "POST /orders", key)


class _Zero:
    def getrandbits(self, k: int, /) -> int:
        return 0
