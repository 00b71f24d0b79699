"""The announcer: heartbeats, a manifest for who asks, and a last word."""

from __future__ import annotations

from eventplat.discovery.announcer import HEARTBEAT, JITTER_S, MANIFEST
from eventplat.discovery.instance import Heartbeat, Manifest
from eventplat.errors import BrokerUnavailable
from tests.unit.discovery.fanout import HEARTBEAT_S, Fanout, manifest, on_loop


@on_loop
async def test_an_instance_says_at_start_what_it_can_do_and_that_it_is_there(fanout: Fanout) -> None:
    await fanout.announcer(instance="i-1")

    assert [type_ for type_, _ in fanout.heard[:2]] == [MANIFEST, HEARTBEAT]
    assert Manifest.model_validate_json(fanout.heard[0][1]) == manifest()
    assert Heartbeat.model_validate_json(fanout.heard[1][1]) == Heartbeat(
        service="shop", version="1.0", instance="i-1", digest=manifest().digest, state="ready", in_flight=3
    )


@on_loop
async def test_heartbeats_go_on_and_the_manifest_is_not_repeated(fanout: Fanout) -> None:
    await fanout.announcer()
    before = fanout.heartbeats

    await fanout.clock.advance(HEARTBEAT_S * 5)
    await fanout.turn()

    assert fanout.heartbeats - before == 5
    assert fanout.manifests == 1


@on_loop
async def test_who_asks_is_answered_within_a_moment(fanout: Fanout) -> None:
    await fanout.announcer()
    await fanout.clock.advance(5)

    await fanout.who()
    await fanout.clock.advance(JITTER_S)
    await fanout.turn()

    assert fanout.manifests == 2


@on_loop
async def test_the_manifest_goes_out_at_most_once_a_second_however_often_somebody_asks(fanout: Fanout) -> None:
    await fanout.announcer()
    await fanout.clock.advance(5)

    for _ in range(30):
        await fanout.who()
        await fanout.clock.advance(0.1)
    await fanout.turn()

    assert 3 <= fanout.manifests - 1 <= 4


@on_loop
async def test_instances_of_one_release_answer_once_together(fanout: Fanout) -> None:
    for _ in range(8):
        await fanout.announcer()
    await fanout.announcer(manifest("stock"))
    await fanout.clock.advance(5)
    before = fanout.manifests

    await fanout.who()
    await fanout.clock.advance(1.0)
    await fanout.turn()

    assert fanout.manifests - before == 2


@on_loop
async def test_an_answer_that_nobody_else_gave_is_not_left_out(fanout: Fanout) -> None:
    await fanout.announcer(manifest(version="1.0"))
    await fanout.announcer(manifest(version="2.0"))
    await fanout.clock.advance(5)
    fanout.heard.clear()

    await fanout.who()
    await fanout.clock.advance(1.0)
    await fanout.turn()

    said = {Manifest.model_validate_json(body).version for type_, body in fanout.heard if type_ == MANIFEST}
    assert said == {"1.0", "2.0"}


@on_loop
async def test_the_last_word_is_that_it_has_stopped(fanout: Fanout) -> None:
    announcer = await fanout.announcer()

    await fanout.leave(announcer)

    assert Heartbeat.model_validate_json(fanout.heard[-1][1]).state == "stopped"
    before = fanout.heartbeats
    await fanout.clock.advance(HEARTBEAT_S * 3)
    await fanout.turn()
    assert fanout.heartbeats == before


@on_loop
async def test_a_broker_that_is_away_does_not_end_the_heartbeats(fanout: Fanout) -> None:
    announcer = await fanout.announcer()
    publish, before = announcer._transport.publish, fanout.heartbeats

    async def away(*_: object, **__: object) -> None:
        raise BrokerUnavailable("not connected")

    announcer._transport.publish = away  # type: ignore[method-assign,assignment]
    await fanout.clock.advance(HEARTBEAT_S * 3)
    announcer._transport.publish = publish  # type: ignore[method-assign]
    await fanout.clock.advance(HEARTBEAT_S)
    await fanout.turn()

    assert fanout.heartbeats == before + 1
