"""The wire format, held to vectors that are written down: `vectors/*.json` is the protocol, this file only reads it.

Each vector was calculated without the platform's code. One that fails means that running processes of an earlier
release would not understand this one: a change here needs a version and a migration, not another vector.
"""

from __future__ import annotations

import enum
import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import combinations
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from eventplat.broker.topology import Names, Topology, binding_key, routing_key, routing_key_of
from eventplat.clock import SystemClock
from eventplat.errors import BadIdempotencyKey, Malformed, Rejected
from eventplat.gateway.idempotency import command_id
from eventplat.hashing import body_hash, bucket_of, lane_of
from eventplat.messages import envelope as envelopes
from eventplat.messages.codec import Properties, to_envelope, to_properties
from eventplat.messages.envelope import Envelope
from eventplat.messages.ids import created_us, derived_id, is_id, new_id
from eventplat.messages.message import Command, Event, Key, Message, Query
from eventplat.sagas.history import step_id
from eventplat.service.endpoint import topology
from eventplat.service.pipeline import rejection
from eventplat.service.service import Service
from eventplat.transactions.inbox import InboxState, Settled
from eventplat.transactions.sender import Sender
from eventplat.transactions.stored import properties_text
from eventplat.transactions.stored import to_properties as read_properties

VECTORS = Path(__file__).parent / "vectors"


def vectors(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


HASHING, IDS, MESSAGES, ENVELOPES = vectors("hashing"), vectors("ids"), vectors("messages"), vectors("envelopes")
REPLIES, TOPOLOGY, MALFORMED, TOLERATED = vectors("replies"), vectors("topology"), vectors("malformed"), vectors("tolerated")
CLOUDEVENTS = vectors("cloudevents")
EVERYTHING = next(vector for vector in ENVELOPES if vector["name"] == "everything")


class Reservation(BaseModel):
    reservation_id: str


class Colour(enum.Enum):
    RED = "red"


class OrderPlaced(Event):
    order_id: Key[str]
    quantity: int


class OrderPlacedV2(Event):
    pass


class ReserveStock(Command[Reservation], name="stock.reserve-stock"):
    sku: Key[str]
    quantity: int


class ReserveStockAnew(Command[Reservation], name="stock.reserve-stock", version=2):
    sku: Key[str]
    quantity: int
    site: str | None


class QuotePrice(Query[int], name="prices.quote-price"):
    sku: Key[str]


class Ping(Command[None]):
    pass


class HTTPServerStarted(Event):
    port: int


class PaymentTaken(Event, name="payments.payment-taken", version=3, stream="order"):
    payment_id: Key[UUID]
    amount: Decimal
    at: datetime
    receipt: bytes


class Painted(Event):
    colour: Key[Colour]


class Visited(Event):
    customer_account_id: Key[str | None]


class Counted(Event):
    number: Key[int]


class CountStock(Query[int]):
    sku: str


class Refill(Command[None]):
    sku: str


CLASSES: dict[str, type[Message]] = {
    kind.__name__: kind
    for kind in (
        OrderPlaced, OrderPlacedV2, ReserveStock, ReserveStockAnew, QuotePrice, Ping, HTTPServerStarted, PaymentTaken, Painted,
        Visited, Counted,
    )
}  # fmt: skip


def by_name(vector: dict[str, Any]) -> str:
    return str(vector.get("name"))


def of_vector(said: dict[str, Any]) -> Envelope:
    return Envelope(**{**said, "body": said["body"].encode()})


def properties_of(vector: dict[str, Any]) -> Properties:
    return Properties(**vector["properties"], headers=dict(vector["headers"]))


# --- keys, bodies, ids ----------------------------------------------------------------------------


@pytest.mark.parametrize("vector", HASHING["keys"], ids=lambda vector: ascii(vector["key"][:20]))
def test_a_key_has_its_bucket_and_lane(vector: dict[str, Any]) -> None:
    assert (bucket_of(vector["key"]), lane_of(bucket_of(vector["key"]))) == (vector["bucket"], vector["lane"])


@pytest.mark.parametrize("vector", HASHING["bodies"], ids=lambda vector: ascii(vector["body"]))
def test_a_body_has_its_hash(vector: dict[str, Any]) -> None:
    assert body_hash(vector["body"].encode()).hex() == vector["hash"]


class Drawn:
    """Chance that was drawn before."""

    def __init__(self, bits: int) -> None:
        self._bits = bits

    def getrandbits(self, k: int, /) -> int:
        assert self._bits < 1 << k
        return self._bits


@pytest.mark.parametrize("vector", IDS["new"], ids=lambda vector: vector["id"])
def test_a_new_id_is_its_time_and_chance(vector: dict[str, Any]) -> None:
    assert new_id(vector["time_us"], Drawn(int(vector["chance"], 16))) == vector["id"]
    assert created_us(vector["id"]) == vector["created_us"]
    assert UUID(vector["id"]).version == 7


@pytest.mark.parametrize("vector", IDS["derived"], ids=lambda vector: vector["id"])
def test_a_derived_id_is_its_recorded_time_and_what_it_is_derived_from(vector: dict[str, Any]) -> None:
    assert derived_id(vector["time_us"], *vector["parts"]) == vector["id"]
    assert created_us(vector["id"]) == vector["created_us"]
    assert UUID(vector["id"]).version == 8


@pytest.mark.parametrize("vector", IDS["steps"], ids=lambda vector: f"{vector['saga']} {vector['path']}")
def test_a_saga_step_has_the_id_of_its_path(vector: dict[str, Any]) -> None:
    assert step_id(vector["saga"], vector["started_us"], vector["path"]) == vector["id"]


@pytest.mark.parametrize("vector", IDS["idempotency"], ids=lambda vector: vector["id"])
def test_an_idempotency_key_has_its_command_id(vector: dict[str, Any]) -> None:
    assert command_id(vector["subject"], vector["route"], vector["key"]) == vector["id"]


@pytest.mark.parametrize("key", IDS["idempotency_refused"], ids=lambda key: ascii(key[:10]))
def test_an_idempotency_key_that_is_none_has_no_command(key: str) -> None:
    with pytest.raises(BadIdempotencyKey) as raised:
        command_id("ann", "POST /orders", key)
    assert raised.value.code == "EP810"


def test_an_id_is_an_id_in_one_spelling_only() -> None:
    assert [text for text in IDS["canonical"] if not is_id(text)] == []
    assert [text for text in IDS["not_canonical"] if is_id(text)] == []


# --- messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", MESSAGES, ids=lambda vector: f"{vector['class']} {vector['key']!a}")
def test_a_message_class_has_its_names_and_a_message_its_bytes(vector: dict[str, Any]) -> None:
    kind = CLASSES[vector["class"]]
    message = kind.model_validate(vector["fields"])
    owner = vector["owner"] or vector["sent_by"]

    assert (kind.kind, kind.wire.owner, kind.wire.name, kind.wire.version) == (
        vector["kind"], vector["owner"], vector["name"], vector["version"],
    )  # fmt: skip
    assert (kind.wire.stream, kind.key_field, message.key) == (vector["stream"], vector["key_field"], vector["key"])
    assert kind.wire.type_under(owner) == vector["type"]
    assert routing_key(kind, owner, message.key) == vector["routing_key"]
    assert routing_key_of(vector["type"], kind.wire.stream, message.key, is_query=kind.kind == "query") == vector["routing_key"]
    assert binding_key(kind, kind.wire.owner) == vector["binding_key"]
    assert message.to_bytes() == vector["body"].encode()
    assert kind.model_validate_json(vector["body"]) == message


def test_every_message_class_has_its_vectors() -> None:
    assert {vector["class"] for vector in MESSAGES} == set(CLASSES)


# --- envelope and properties ----------------------------------------------------------------------


@pytest.mark.parametrize("vector", ENVELOPES, ids=by_name)
def test_an_envelope_is_written_as_its_properties(vector: dict[str, Any]) -> None:
    written = to_properties(of_vector(vector["envelope"]), expiration_ms=vector["expiration_ms"])

    assert written == properties_of(vector)
    assert [type(value) for value in written.headers.values()] == [type(vector["headers"][name]) for name in written.headers]


@pytest.mark.parametrize("vector", ENVELOPES, ids=by_name)
def test_properties_are_read_as_their_envelope(vector: dict[str, Any]) -> None:
    assert to_envelope(properties_of(vector), vector["envelope"]["body"].encode()) == of_vector(vector["envelope"])


@pytest.mark.parametrize("vector", ENVELOPES, ids=by_name)
def test_properties_outlive_a_row_unchanged(vector: dict[str, Any]) -> None:
    assert read_properties(properties_text(properties_of(vector))) == properties_of(vector)


def test_each_header_stands_for_itself_beside_any_others() -> None:
    fields = {"deadline": "deadline_ms"}
    empty = {**{fields.get(name, name): None for name in EVERYTHING["headers"]}, "v": 1}
    whole = of_vector(EVERYTHING["envelope"])
    names = list(EVERYTHING["headers"])
    chosen = [some for count in range(len(names) + 1) for some in combinations(names, count)]

    for some in chosen:
        kept: dict[str, Any] = {field: value for field, value in empty.items() if field not in {fields.get(name, name) for name in some}}
        envelope = replace(whole, **kept)
        headers = {name: EVERYTHING["headers"][name] for name in some}
        assert to_properties(envelope).headers == headers
        assert to_envelope(Properties(**EVERYTHING["properties"], headers=headers), whole.body) == envelope
    assert len(chosen) == 1_024


@pytest.mark.parametrize("vector", TOLERATED, ids=by_name)
def test_what_others_may_say_differently_is_read_alike(vector: dict[str, Any]) -> None:
    assert to_envelope(properties_of(vector), vector["envelope"]["body"].encode()) == of_vector(vector["envelope"])


@pytest.mark.parametrize("vector", MALFORMED, ids=by_name)
def test_what_is_no_message_is_refused_with_its_code(vector: dict[str, Any]) -> None:
    with pytest.raises(Malformed) as raised:
        to_envelope(properties_of(vector), vector["body"].encode())

    assert raised.value.code == vector["code"]
    assert vector["says"] in str(raised.value)


# --- replies --------------------------------------------------------------------------------------


def stock() -> Sender:
    return Sender("stock", Names(), SystemClock(), random.Random(1), user_id="stock-user")


@pytest.mark.parametrize("vector", REPLIES["replies"], ids=by_name)
def test_a_reply_is_addressed_and_written_as_its_kind(vector: dict[str, Any]) -> None:
    letter = stock().answer(of_vector(vector["request"]), vector["type"], vector["body"].encode())

    assert (letter.exchange, letter.routing_key) == (vector["exchange"], vector["routing_key"])
    assert to_properties(letter.envelope) == properties_of(vector)
    assert to_envelope(properties_of(vector), vector["body"].encode()) == letter.envelope
    assert stock().waits(vector["routing_key"]) is vector["to_waiting"]


@pytest.mark.parametrize("vector", IDS["replies"], ids=lambda vector: vector["request"])
def test_a_reply_has_the_id_of_its_request(vector: dict[str, Any]) -> None:
    request = Envelope(id=vector["request"], type="a.b.v1", body=b"{}", correlation_id=vector["request"], reply_to="r")

    assert stock().answer(request, envelopes.DONE, b"null").envelope.id == vector["id"]


def test_the_kinds_of_reply_have_their_types() -> None:
    states: list[InboxState] = ["done", "rejected", "void"]

    assert {name: getattr(envelopes, name) for name in REPLIES["kinds"]} == REPLIES["kinds"]
    assert {state: Settled(state, None, None).reply_type for state in states} == REPLIES["inbox"]


@pytest.mark.parametrize("vector", REPLIES["rejections"], ids=lambda vector: ascii(vector["reason"]))
def test_a_rejection_is_written_as_its_body(vector: dict[str, Any]) -> None:
    assert rejection(Rejected(vector["reason"], status=vector["status"], **vector["facts"])) == vector["body"].encode()
    assert json.loads(vector["body"]) == {name: vector[name] for name in ("reason", "status", "facts")}


# --- topology -------------------------------------------------------------------------------------


def stock_service() -> Service[None]:
    service = Service("stock")

    async def answers(message: Any, ctx: Any) -> Any: ...
    async def follows(message: Any, saga: Any) -> Any: ...

    service.handles(ReserveStock)(answers)
    service.handles(ReserveStockAnew)(answers)
    service.handles(CountStock)(answers)
    service.on(OrderPlaced)(answers)
    service.on(PaymentTaken, name="ledger")(answers)
    service.on(PaymentTaken, name="in-order", ordered=True)(answers)
    service.saga(Refill)(follows)
    return service


def test_a_service_declares_its_queues() -> None:
    declared = {queue.name: queue for queue in topology(stock_service(), Names()).queues}

    assert set(declared) == {vector["name"] for vector in TOPOLOGY["queues"]}
    for vector in TOPOLOGY["queues"]:
        queue = declared[vector["name"]]
        assert (queue.type, queue.single_active, queue.arguments) == (vector["type"], vector["single_active"], vector["arguments"])
        assert [[binding.exchange, binding.routing_key] for binding in queue.bindings] == vector["bindings"]


@pytest.mark.parametrize("vector", TOPOLOGY["names"], ids=lambda vector: vector["prefix"])
def test_every_broker_name_begins_with_the_prefix(vector: dict[str, Any]) -> None:
    names = Names(vector["prefix"])

    assert names.exchange("events") == vector["exchange"]
    assert names.queue("stock.reserve-stock") == vector["queue"]
    assert (names.dead("stock"), names.replies("stock"), names.waiting("p-1")) == (vector["dead"], vector["replies"], vector["waiting"])
    assert [[exchange.name, exchange.type] for exchange in Topology(names.exchanges()).exchanges] == [
        [f"{vector['prefix']}.{name}", kind] for name, kind in TOPOLOGY["exchanges"]
    ]


@pytest.mark.parametrize("vector", TOPOLOGY["routing"], ids=lambda vector: vector["routing_key"])
def test_a_type_has_its_routing_key(vector: dict[str, Any]) -> None:
    assert routing_key_of(vector["type"], vector["stream"], vector["key"], is_query=vector["is_query"]) == vector["routing_key"]


# --- CloudEvents ----------------------------------------------------------------------------------


def cloudevent(envelope: Envelope) -> dict[str, Any]:
    created = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=envelope.created_us)
    time = created.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    values = {attribute: time if ours == "created" else getattr(envelope, ours) for ours, attribute in CLOUDEVENTS["mapping"].items()}
    return {attribute: value for attribute, value in values.items() if value is not None}


def test_the_envelope_documents_its_mapping_to_cloudevents() -> None:
    documented = " ".join((envelopes.__doc__ or "").split())

    assert ", ".join(f"{ours} → {attribute}" for ours, attribute in CLOUDEVENTS["mapping"].items()) in documented


@pytest.mark.parametrize("vector", CLOUDEVENTS["events"], ids=lambda vector: len(vector["cloudevent"]))
def test_an_envelope_is_its_cloudevent_under_that_mapping(vector: dict[str, Any]) -> None:
    assert cloudevent(of_vector(vector["envelope"])) == vector["cloudevent"]
