"""Messages of the shop: bounded in every field, named with their owner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from eventplat.messages.message import Command, Message, Query
from services.orders import messages as orders
from services.payments import messages as payments
from services.shipments import messages as shipments
from services.stock import messages as stock

MODULES = (orders, payments, shipments, stock)


def _classes() -> list[type[Message]]:
    values = [value for module in MODULES for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
    return [value for value in values if isinstance(value, type) and issubclass(value, Message) and hasattr(value, "wire")]


REQUESTS = [cls for cls in _classes() if issubclass(cls, Command | Query)]


def _unbounded(schema: dict[str, Any], defs: dict[str, Any], path: str) -> Iterator[str]:
    if "$ref" in schema:
        yield from _unbounded(defs[schema["$ref"].rpartition("/")[2]], defs, path)
    for part in schema.get("anyOf", ()):
        yield from _unbounded(part, defs, path)
    for name, field in schema.get("properties", {}).items():
        yield from _unbounded(field, defs, f"{path}.{name}")
    kind = schema.get("type")
    bounds = {"string": ("maxLength",), "integer": ("minimum", "maximum"), "array": ("maxItems",)}.get(str(kind), ())
    if "enum" not in schema and any(bound not in schema for bound in bounds):
        yield path
    if kind == "array":
        yield from _unbounded(schema["items"], defs, f"{path}[]")
    if kind == "number":
        yield path  # money and quantities are never floats


@pytest.mark.parametrize("cls", REQUESTS, ids=lambda cls: cls.__name__)
def test_every_field_of_a_request_is_bounded_so_that_the_gateway_refuses_the_rest(cls: type[Message]) -> None:
    schema = cls.model_json_schema()

    assert list(_unbounded(schema, schema.get("$defs", {}), cls.__name__)) == []


@pytest.mark.parametrize("nothing", ["0", "0.00", "000000000.000"])
def test_a_deposit_of_nothing_is_refused(nothing: str) -> None:
    with pytest.raises(ValueError, match="zero"):
        payments.Deposit.model_validate({"account_id": "A", "amount": nothing})


def test_a_correction_by_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="quantity"):
        stock.CorrectStock.model_validate({"sku": "A", "quantity": 0, "reason": "none"})


@pytest.mark.parametrize("cls", _classes(), ids=lambda cls: cls.__name__)
def test_a_message_is_named_with_the_service_that_owns_it(cls: type[Message]) -> None:
    assert cls.wire.owner == cls.__module__.split(".")[1]


def test_there_are_requests_to_look_at() -> None:
    assert len(REQUESTS) >= 19
