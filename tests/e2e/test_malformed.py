"""Malformed messages put straight on every queue of every service: parked with the reason, and nothing stops."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pika
import pytest

from eventplat.broker.topology import Names, Queue
from eventplat.service.endpoint import endpoints, topology
from eventplat.service.load import load_service
from services.demo import day
from services.demo.generate import generate
from tests.e2e.shops import Open, opened
from tests.faults.books import audit
from tests.faults.crash import wait_until_at_rest
from tests.faults.stack import SERVICES

PARKED_S = 60.0
FIELDLESS = {"payments.read-ledger", "stock.take-stock"}
Properties = dict[str, Any]


def _whole(type_: str) -> Properties:
    return {"message_id": str(uuid4()), "type": type_, "content_type": "application/json", "headers": {}}


MALFORMED: dict[str, tuple[Callable[[str], Properties], bytes, str]] = {
    "nothing": (_whole, b"", "JSON"),
    "no JSON": (_whole, b"two of those, please", "JSON"),
    "half an object": (_whole, b'{"order_id": "O-1"', "JSON"),
    "no object": (_whole, b"[1, 2]", "object"),
    "nothing that fits": (_whole, b'{"order_id": {}, "sku": 7, "account_id": null}', "valid"),
    "no UTF-8": (_whole, b'{"order_id": "\xff\xfe"}', "JSON"),
    "too deep": (_whole, b"[" * 100 + b"]" * 100, "nested"),
    "too large": (_whole, b'{"order_id": "' + b"x" * 1_100_000 + b'"}', "limit"),
    "no properties": (lambda _: {}, b"{}", "message_id"),
    "no id": (lambda type_: {**_whole(type_), "message_id": None}, b"{}", "message_id"),
    "an id that is none": (lambda type_: {**_whole(type_), "message_id": "7"}, b"{}", "message_id"),
    "an id of bytes": (lambda type_: {**_whole(type_), "message_id": b"\xff\xfe"}, b"{}", "message_id"),
    "no type": (lambda type_: {**_whole(type_), "type": None}, b"{}", "type"),
    "another's type": (lambda _: _whole("nobody.do-something.v1"), b"{}", "nobody.do-something.v1"),
    "a type of bytes": (lambda type_: {**_whole(type_), "type": b"\xff\xfe"}, b"{}", "xff"),
    "a type with U+0000": (lambda _: _whole("a\0b"), b"{}", "U+0000"),
    "no content type": (lambda type_: {**_whole(type_), "content_type": None}, b"{}", "content_type"),
    "another content type": (lambda type_: {**_whole(type_), "content_type": "application/x-python-pickle"}, b"{}", "content_type"),
    "a key that is a number": (lambda type_: {**_whole(type_), "headers": {"key": 7}}, b"{}", "key"),
    "a key with U+0000": (lambda type_: {**_whole(type_), "headers": {"key": "a\0b"}}, b"{}", "key"),
    "a key of bytes": (lambda type_: {**_whole(type_), "headers": {"key": b"\xff\xfe"}}, b"{}", "key"),
    "a sender with U+0000": (lambda type_: {**_whole(type_), "app_id": "a\0b"}, b"{}", "app_id"),
    "a deadline that is a text": (lambda type_: {**_whole(type_), "headers": {"deadline": "soon"}}, b"{}", "deadline"),
    "a header with a name of bytes": (lambda type_: {**_whole(type_), "message_id": None, "headers": {b"\xff": 1}}, b"{}", "message_id"),
    "an undo of nothing": (lambda type_: {**_whole(type_), "headers": {"undoes": "it"}}, b"{}", "undoes"),
}


@pytest.mark.timeout(300)
def test_malformed_messages_on_every_queue_are_parked_with_their_reason_and_stop_nothing(tmp_path: Path) -> None:
    async def put() -> None:
        async with opened("local", tmp_path) as open_:
            queues = _queues(open_)
            assert set(queues) == set(SERVICES)
            await asyncio.to_thread(_publish, open_, [queue.name for of_service in queues.values() for queue in of_service])

            plan = generate(20, seed=11)
            await day.open_shop(open_.shop, plan)
            told = await day.trade(open_.shop, plan)

            for service, of_service in queues.items():
                await _until_parked(open_, service, of_service)
            await wait_until_at_rest(open_.fetch)
            assert told.counts()["completed"] > 5
            found = audit(open_.fetch, {id_: answer.is_accepted for id_, answer in told.orders.items()})
            assert [each for each in found if "messages are dead" not in each] == []
            assert open_.stack.deaths == []

    asyncio.run(put())


def _queues(open_: Open) -> dict[str, list[Queue]]:
    """By service: every queue that it reads. What stands in `….dead` the broker gave up; nobody reads it."""
    names = Names(open_.stack.environment["EVENTPLAT_PREFIX"])
    found = {service: topology(load_service(f"services.{service}"), names).queues for service in SERVICES}
    return {service: [queue for queue in queues if queue.name != names.dead(service)] for service, queues in found.items()}


def _publish(open_: Open, queues: list[str]) -> None:
    """Every malformed message on every queue."""
    prefix = open_.stack.environment["EVENTPLAT_PREFIX"]
    types = {each.identity: each.wire_type for service in SERVICES for each in endpoints(load_service(f"services.{service}"))}
    with pika.BlockingConnection(pika.URLParameters(open_.stack.environment["EVENTPLAT_BROKER_URL"])) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for queue in queues:
            for properties, body, _ in MALFORMED.values():
                name = queue.removeprefix(f"{prefix}.")
                said = properties(types.get(name) or f"{name}.v1")
                channel.basic_publish("", queue, body, pika.BasicProperties(**said), mandatory=True)


async def _until_parked(open_: Open, service: str, queues: list[Queue]) -> None:
    """What was put on each queue is dead in `pending`, with its reason."""
    prefix = open_.stack.environment["EVENTPLAT_PREFIX"]
    expected = {name: _expected(name) for queue in queues if (name := queue.name.removeprefix(f"{prefix}."))}
    until = time.monotonic() + PARKED_S
    rows: list[Any] = []
    while len(rows) < sum(map(len, expected.values())) and time.monotonic() < until:
        await asyncio.sleep(0.2)
        rows = open_.fetch(service, "SELECT handler, state, replace(errors, '|', '/') FROM eventplat_pending")
    assert {state for _, state, _ in rows} == {"dead"}
    for handler, reasons in expected.items():
        texts = [json.loads(errors)[-1]["text"] for name, _, errors in rows if name == handler]
        missing = [f"{what}: {reason}" for what, reason in reasons.items() if not any(reason in text for text in texts)]
        assert (missing, len(texts)) == ([], len(reasons)), f"{handler}: {texts}"


def _expected(queue: str) -> dict[str, str]:
    """By what was put on the queue: a part of the reason that is to stand with it."""
    reasons = {what: reason for what, (_, _, reason) in MALFORMED.items()}
    if queue in FIELDLESS:
        del reasons["nothing that fits"]  # without fields everything that is an object fits: unknown ones are ignored
    if queue.endswith(".replies"):
        reasons |= {what: queue for what, (properties, _, _) in MALFORMED.items() if properties is _whole}
    return reasons
