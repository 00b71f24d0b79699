"""The OpenAPI document: what the services announced, in a form that tools take."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs

from eventplat.gateway.openapi import Document, with_routes
from eventplat.gateway.routes import Table
from eventplat.service.endpoint import manifest
from tests.unit.gateway.house import shop

TABLE = Table([manifest(shop, "1.0")])


def document(**options: Any) -> dict[str, Any]:
    return with_routes({"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": {}}, TABLE.targets, **options)


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [value["$ref"]] if isinstance(value.get("$ref"), str) else [r for part in value.values() for r in references(part)]
    return [r for part in value for r in references(part)] if isinstance(value, list) else []


def test_each_route_is_an_operation_of_its_service() -> None:
    paths = document()["paths"]

    assert {path: sorted(methods) for path, methods in paths.items()} == {
        "/orders": ["post"], "/orders/{order_id}": ["delete", "get"], "/runs/{run}": ["put"],
    }  # fmt: skip
    operation = paths["/orders"]["post"]
    assert (operation["tags"], operation["operationId"], operation["summary"]) == (["shop"], "shop.place-order", "Place an order.")
    assert "orders:write" in operation["description"]


def test_a_commands_fields_are_its_body_without_those_of_the_path() -> None:
    paths = document()["paths"]

    body = paths["/orders"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert sorted(body["required"]) == ["order_id", "quantity"]
    assert body["additionalProperties"] is False
    deleted = paths["/orders/{order_id}"]["delete"]
    assert deleted["requestBody"]["content"]["application/json"]["schema"]["properties"] == {}
    named = {(p["in"], p["name"], p["required"]) for p in deleted["parameters"]}
    assert named == {("path", "order_id", True), ("header", "Idempotency-Key", True)}


def test_a_querys_fields_are_parameters() -> None:
    parameters = document()["paths"]["/orders/{order_id}"]["get"]["parameters"]

    assert [(p["in"], p["name"], p["required"]) for p in parameters] == [
        ("path", "order_id", True), ("query", "limit", False), ("query", "full", False), ("query", "tags", False),
    ]  # fmt: skip


def test_the_answers_are_told_with_202_and_problems() -> None:
    responses = document()["paths"]["/orders"]["post"]["responses"]

    assert set(responses) == {"201", "202", "4XX", "5XX", "503"}
    assert set(responses["202"]["headers"]) == {"Location", "Retry-After"}
    assert set(document()["paths"]["/orders/{order_id}"]["delete"]["responses"]) == {"204", "202", "4XX", "5XX", "503"}
    assert "202" not in document()["paths"]["/orders/{order_id}"]["get"]["responses"]
    assert list(responses["4XX"]["content"]) == ["application/problem+json"]


def test_every_reference_leads_somewhere_and_every_schema_is_one() -> None:
    written = document()
    schemas = written["components"]["schemas"]

    found = references(written)
    assert "#/components/schemas/shop.place-order.Line" in found
    assert {reference.removeprefix("#/components/schemas/") for reference in found} <= set(schemas)
    for schema in schemas.values():
        jsonschema_rs.validator_for({**schema, "components": written["components"]})


def test_tokens_are_asked_for_where_there_are_any() -> None:
    assert "security" not in document()
    assert document(has_tokens=True)["security"] == [{"token": []}]
    assert document(has_tokens=True)["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


def test_the_document_is_written_once_for_each_table() -> None:
    written: list[int] = []

    def own() -> dict[str, Any]:
        written.append(1)
        return {}

    kept = Document(own, has_tokens=False)
    first = kept.of(TABLE)

    assert kept.of(TABLE) is first
    assert "/orders" not in kept.of(Table())["paths"]
    assert len(written) == 2
    json.dumps(first)


def test_services_come_before_the_gateways_own_and_a_misfit_is_described_as_it_is_answered() -> None:
    own = {"/operations/{id}": {"get": {"tags": ["gateway"], "responses": {"200": {}, "422": {"description": "Validation Error"}}}}}
    described = with_routes(
        {"paths": own, "components": {"schemas": {"HTTPValidationError": {}, "ValidationError": {}}}}, TABLE.targets
    )

    assert list(described["paths"])[-1] == "/operations/{id}"
    assert described["paths"]["/operations/{id}"]["get"]["responses"].keys() == {"200", "4XX"}
    assert "HTTPValidationError" not in described["components"]["schemas"]
