"""Manifests and heartbeats: what they say on the wire, and that another release may say more."""

from __future__ import annotations

from eventplat.discovery.instance import Heartbeat, Manifest, digest_of
from tests.unit.discovery.fanout import manifest

SAID = (
    '{"service":"shop","version":"1.0","handlers":[{"name":"shop.place-order","kind":"command","type":"shop.place-order.v1","stream":"-",'
    '"key_field":null,"schema_":{"type":"object","properties":{}},"reply_schema":null,"requires":[],'
    '"route":{"method":"POST","template":"/orders","status":200,"wait_s":10.0,"idempotency_key":"accepted"},"summary":"","is_saga":false}]}'
)
HEARTBEAT = '{"service":"shop","version":"1.0","instance":"i-1","digest":"6ba4a31cf07f3b3d","state":"ready","in_flight":3}'


def test_a_manifest_is_said_as_this() -> None:
    assert manifest().model_dump_json() == SAID
    assert Manifest.model_validate_json(SAID) == manifest()


def test_its_digest_is_of_what_is_said() -> None:
    assert manifest().digest == digest_of(SAID.encode())
    assert digest_of(b"") == "e4a6a0577479b2b4"  # BLAKE2b of nothing, 8 bytes
    assert digest_of(SAID.encode()) != digest_of(SAID.encode() + b" ")


def test_a_heartbeat_is_said_as_this() -> None:
    heartbeat = Heartbeat(service="shop", version="1.0", instance="i-1", digest="6ba4a31cf07f3b3d", state="ready", in_flight=3)

    assert heartbeat.model_dump_json() == HEARTBEAT
    assert Heartbeat.model_validate_json(HEARTBEAT) == heartbeat


def test_what_a_later_release_says_besides_is_ignored() -> None:
    later = SAID.replace('"is_saga":false', '"is_saga":false,"colour":"red"')

    assert Manifest.model_validate_json(later) == manifest()
    assert Heartbeat.model_validate_json(HEARTBEAT.replace('"in_flight":3', '"in_flight":3,"colour":"red"')).in_flight == 3
