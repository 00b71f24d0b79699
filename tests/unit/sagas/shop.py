"""A shop's messages, and a saga whose history a test writes by hand."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from eventplat.messages.message import Command, Event, Key, Query
from eventplat.sagas.history import Answered, Asked, Cancelled, Decision, Outcome, Record
from eventplat.sagas.replay import SagaFunction, advance

STARTED_US = 1_700_000_000_000_000
SECOND_US = 1_000_000


class Reservation(BaseModel):
    place: str


class PlaceOrder(Command[str], name="orders.place-order"):
    order_id: Key[str]


class ReserveStock(Command[Reservation], name="stock.reserve-stock"):
    order_id: Key[str]
    quantity: int = 1


class ReleaseStock(Command[None], name="stock.release-stock"):
    order_id: Key[str]
    quantity: int = 1


class ChargeCard(Command[int], name="payments.charge-card"):
    order_id: Key[str]


class RefundCard(Command[None], name="payments.refund-card"):
    order_id: Key[str]


class ArrangeShipment(Command[str], name="shipments.arrange-shipment"):
    order_id: Key[str]
    part: int = 0


class CancelShipment(Command[None], name="shipments.cancel-shipment"):
    order_id: Key[str]
    part: int = 0


class QuotePrice(Query[int], name="stock.quote-price"):
    sku: str


class OrderPlaced(Event):
    order_id: Key[str]
    note: str = ""


ORDER = PlaceOrder(order_id="o-1")
RESERVE = ReserveStock(order_id="o-1")
RELEASE = ReleaseStock(order_id="o-1")
CHARGE = ChargeCard(order_id="o-1")
REFUND = RefundCard(order_id="o-1")
REPLIES: dict[str, object] = {
    "stock.reserve-stock.v1": {"place": "A7"},
    "payments.charge-card.v1": 42,
    "shipments.arrange-shipment.v1": "van",
    "stock.quote-price.v1": 9,
}


def ship(part: int = 0) -> ArrangeShipment:
    return ArrangeShipment(order_id="o-1", part=part)


def unship(part: int = 0) -> CancelShipment:
    return CancelShipment(order_id="o-1", part=part)


class Story:
    """A saga that a test leads step by step: every decision is made twice, and recorded as the store would."""

    def __init__(self, function: SagaFunction, *, version: int = 1, history: list[Record] | None = None) -> None:
        self.function, self.version = function, version
        self.history: list[Record] = list(history or [])
        self.asked: list[str] = []      # "kind type" of everything recorded, in order
        self.now_us = STARTED_US
        self.decision = self._decide()

    def answer(self, path: str, outcome: Outcome = "done", reply: object = None) -> Decision:
        self.now_us += SECOND_US
        asked = next(each for each in self.history if isinstance(each, Asked) and each.path == path)
        if outcome == "done" and asked.kind == "call":
            reply = REPLIES.get(asked.type) if reply is None else reply
        elif outcome == "rejected" and reply is None:
            reply = {"reason": "no", "status": 422, "facts": {"left": 0}}
        self.history.append(Answered(path, outcome, json.dumps(reply).encode(), self.now_us))
        self.decision = self._decide()
        return self.decision

    def cancel(self) -> Decision:
        self.now_us += SECOND_US
        self.history.append(Cancelled(self.now_us))
        self.decision = self._decide()
        return self.decision

    def redeployed(self, function: SagaFunction, *, version: int = 1) -> Decision:
        """What other code makes of the same history."""
        return Story(function, version=version, history=self.history).decision

    @property
    def open(self) -> list[str]:
        return [ask.record.path for ask in self.decision.open]

    @property
    def outcome(self) -> Any:
        return json.loads(self.decision.outcome)

    def _decide(self) -> Decision:
        decision = advance(
            self.function, ORDER, self.history,
            saga_id="s-1", service="orders", started_us=STARTED_US, version=self.version, twice=True,
        )  # fmt: skip
        for ask in decision.asked:
            assert Asked.from_json(ask.record.to_json()) == ask.record
            self.history.append(ask.record)
            self.asked.append(f"{ask.record.kind} {ask.record.type}".strip())
        return decision
