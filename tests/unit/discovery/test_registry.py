"""The registry: who is there, what routes there are, and that routes outlive their instances."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from eventplat.discovery.announcer import HEARTBEAT, MANIFEST, WHO
from eventplat.discovery.instance import Heartbeat, digest_of
from eventplat.discovery.registry import FORGOTTEN_TERMS, Registry, _order
from tests.unit.discovery.fanout import HEARTBEAT_S, TERM_S, Fanout, manifest, on_loop


def names(registry: Registry) -> list[str]:
    return [known.service for known in registry.manifests]


def versions(registry: Registry) -> list[str]:
    return [known.version for known in registry.manifests]


@on_loop
async def test_a_service_that_starts_later_is_known_at_once(fanout: Fanout) -> None:
    changes: list[int] = []
    registry = await fanout.registry(listener=lambda: changes.append(1))

    await fanout.announcer(instance="i-1")

    assert registry.manifests == (manifest(),)
    assert [heartbeat.instance for heartbeat in registry.instances("shop")] == ["i-1"]
    assert len(changes) == 1


@on_loop
async def test_a_registry_that_starts_later_asks_who_is_there(fanout: Fanout) -> None:
    await fanout.announcer()
    await fanout.clock.advance(5)

    registry = await fanout.registry()
    await fanout.clock.advance(0.5)
    await fanout.turn()

    assert fanout.count(WHO) == 1
    assert names(registry) == ["shop"]
    assert len(registry.instances("shop")) == 1


@on_loop
async def test_a_digest_that_is_not_known_is_asked_for(fanout: Fanout) -> None:
    registry = await fanout.registry()
    heartbeat = Heartbeat(service="shop", version="1.0", instance="i", digest=manifest().digest, state="ready")
    asked = fanout.count(WHO)

    await fanout.say(HEARTBEAT, heartbeat.model_dump_json().encode())
    await fanout.clock.advance(1)
    await fanout.turn()

    assert fanout.count(WHO) > asked
    assert names(registry) == []


@on_loop
async def test_a_manifest_of_a_later_release_is_known_by_the_digest_it_is_announced_with(fanout: Fanout) -> None:
    registry = await fanout.registry()
    said = json.dumps(manifest().model_dump(mode="json") | {"from_a_later_release": True}).encode()
    heartbeat = Heartbeat(service="shop", version="1.0", instance="i", digest=digest_of(said), state="ready").model_dump_json().encode()
    await fanout.say(MANIFEST, said)
    asked = fanout.count(WHO)

    for _ in range(3):
        await fanout.say(HEARTBEAT, heartbeat)
        await fanout.clock.advance(1.5)
    await fanout.say(MANIFEST, manifest(version="0.9").model_dump_json().encode())

    assert fanout.count(WHO) == asked
    assert versions(registry) == ["1.0"]


@on_loop
async def test_an_instance_expires_a_term_after_its_last_word_and_its_routes_stay(fanout: Fanout) -> None:
    registry = await fanout.registry()
    announcer = await fanout.announcer()
    await fanout.vanish(announcer)

    await fanout.clock.advance(TERM_S - 0.1)
    assert len(registry.instances("shop")) == 1
    await fanout.clock.advance(0.2)

    assert registry.instances("shop") == []
    assert names(registry) == ["shop"]


@on_loop
async def test_an_instance_that_stops_is_gone_at_once_and_its_routes_stay(fanout: Fanout) -> None:
    registry = await fanout.registry()
    announcer = await fanout.announcer()

    await fanout.leave(announcer)

    assert registry.instances("shop") == []
    assert names(registry) == ["shop"]


@on_loop
async def test_an_instance_that_drains_is_not_counted(fanout: Fanout) -> None:
    registry = await fanout.registry()

    await fanout.announcer(state="draining")

    assert registry.instances("shop") == []


@on_loop
async def test_instances_stay_as_long_as_they_say_so(fanout: Fanout) -> None:
    registry = await fanout.registry()
    await fanout.announcer()
    await fanout.announcer()

    for _ in range(20):
        await fanout.clock.advance(HEARTBEAT_S)
        await fanout.turn()
        assert len(registry.instances("shop")) == 2


@on_loop
async def test_two_releases_side_by_side_do_not_take_turns(fanout: Fanout) -> None:
    changes: list[int] = []
    registry = await fanout.registry(listener=lambda: changes.append(1))
    old = await fanout.announcer(manifest(route="POST /old"))
    await fanout.announcer(manifest(route="POST /new"))
    assert len(changes) == 2

    await fanout.clock.advance(HEARTBEAT_S * 10)
    await fanout.turn()
    await fanout.leave(old)
    await fanout.clock.advance(HEARTBEAT_S * 10)

    assert registry.manifests == (manifest(route="POST /new"),)
    assert len(changes) == 2


@on_loop
async def test_a_release_that_is_rolled_back_hands_over_when_its_last_instance_is_gone(fanout: Fanout) -> None:
    registry = await fanout.registry()
    await fanout.announcer(manifest(version="0.9"))
    new = await fanout.announcer(manifest(version="0.10"))
    await fanout.clock.advance(HEARTBEAT_S)
    assert versions(registry) == ["0.10"]

    await fanout.leave(new)
    await fanout.clock.advance(HEARTBEAT_S)
    await fanout.turn()

    assert versions(registry) == ["0.9"]


@on_loop
async def test_a_higher_version_speaks_also_when_it_was_heard_first(fanout: Fanout) -> None:
    registry = await fanout.registry()
    await fanout.announcer(manifest(version="0.10"))

    await fanout.announcer(manifest(version="0.9"))

    assert versions(registry) == ["0.10"]


def test_versions_compare_by_their_numbers() -> None:
    ordered = ["", "0.9", "0.10", "1.0", "1.0.1", "1.2", "1.10", "2", "10.0", "2026.1"]

    assert sorted(("10.0", "2", *ordered[:-3], "2026.1"), key=_order) == [*ordered[:-3], "2", "10.0", "2026.1"]


@on_loop
async def test_the_view_is_kept_and_known_again_after_a_restart(fanout: Fanout, tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    registry = await fanout.registry(path)
    away = await fanout.announcer(manifest("zebra", route="POST /zebras"))
    await fanout.announcer(manifest("ant", route="POST /ants"))
    await fanout.leave(away)
    await fanout.leave(registry)

    again = await fanout.registry(path)

    assert names(again) == ["zebra", "ant"], "the first stays the first, over a restart too"
    assert again.instances("zebra") == []
    assert os.listdir(tmp_path) == ["registry.json"]  # noqa: PTH208


@pytest.mark.parametrize("kept", ["", "{}", "nonsense", "[1]", '[{"service": "shop"}]', "null", "5"])
def test_a_damaged_view_is_left_aside(kept: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "registry.json"
    path.write_text(kept)

    @on_loop
    async def start(fanout: Fanout) -> None:
        registry = await fanout.registry(path)
        await fanout.announcer()
        assert names(registry) == ["shop"]

    start()

    assert [known["service"] for known in json.loads(path.read_text())] == ["shop"]
    assert kept == "{}" or "cannot be read" in caplog.text


@on_loop
async def test_a_view_that_cannot_be_kept_is_only_a_warning(fanout: Fanout, tmp_path: Path) -> None:
    registry = await fanout.registry(tmp_path / "missing" / "registry.json")

    await fanout.announcer()

    assert names(registry) == ["shop"]
    assert os.listdir(tmp_path) == []  # noqa: PTH208


@pytest.mark.parametrize("type_", [HEARTBEAT, MANIFEST, "eventplat.what.v1", ""])
@pytest.mark.parametrize("body", [b"", b"{}", b"null", b"[]", b"\xff\xfe", b'{"service": 5}', b"[" * 5_000, b'{"handlers": [{}]}'])
def test_an_announcement_that_cannot_be_read_is_dropped(type_: str, body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    @on_loop
    async def start(fanout: Fanout) -> None:
        registry = await fanout.registry()
        await fanout.say(type_, body)
        await fanout.announcer()
        assert names(registry) == ["shop"]

    with caplog.at_level(logging.WARNING):
        start()

    assert ("cannot be read" in caplog.text) == (type_ in (HEARTBEAT, MANIFEST))


@on_loop
async def test_a_listener_that_fails_does_not_stop_the_others(fanout: Fanout) -> None:
    changes: list[int] = []

    def fail() -> None:
        raise ValueError("a schema that cannot be compiled")

    registry = await fanout.registry(listener=fail)
    registry.on_change(lambda: changes.append(1))

    await fanout.announcer()

    assert changes == [1]


@on_loop
async def test_what_is_long_gone_is_forgotten(fanout: Fanout) -> None:
    registry = await fanout.registry()
    for number in range(5):
        await fanout.leave(await fanout.announcer(manifest(version=f"1.{number}")))
        await fanout.vanish(await fanout.announcer(manifest(version=f"1.{number}")))

    await fanout.clock.advance(TERM_S * FORGOTTEN_TERMS + 2)
    await fanout.turn()

    assert registry._heard == {}
    assert list(registry._by_digest) == [manifest(version="1.4").digest]
