"""OpenAPI: what the services have announced, as one OpenAPI 3.1 document for /docs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from eventplat.gateway.routes import Table, Target

PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "Stable; `eventplat explain CODE`"},
        "detail": {"type": "string"},
        "next": {"type": "string", "description": "What to do now"},
    },
}

_PROBLEM = {"description": "Problem", "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}


class Document:
    """The OpenAPI document, written anew when the announced routes have changed.

    Args:
        own: Describes the app's other routes, in a new dictionary each time.
        has_tokens: Whether callers send bearer tokens: /docs then asks for one.
    """

    def __init__(self, own: Callable[[], dict[str, Any]], *, has_tokens: bool) -> None:
        self._own, self._has_tokens = own, has_tokens
        self._written: tuple[Table, dict[str, Any]] | None = None

    def of(self, table: Table) -> dict[str, Any]:
        """The document with the routes of `table`."""
        if self._written is None or self._written[0] is not table:
            self._written = (table, with_routes(self._own(), table.targets, has_tokens=self._has_tokens))
        return self._written[1]


def with_routes(document: dict[str, Any], targets: Iterable[Target], *, has_tokens: bool = False) -> dict[str, Any]:
    """`document` with a path for each announced route."""
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas["Problem"] = PROBLEM
    if has_tokens:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
        document["security"] = [{"token": []}]
    own = _as_answered(document.get("paths", {}), schemas)
    paths: dict[str, dict[str, Any]] = {}
    for target in sorted(targets, key=lambda each: each.service):  # stable: a service's routes stay in its order
        paths.setdefault(target.route.template, {})[target.route.method.lower()] = _operation(target, schemas)
    document["paths"] = {**paths, **own}
    return document


def _as_answered(paths: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's own description of a misfit, replaced by what the gateway answers instead."""
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for operation in (operation for methods in paths.values() for operation in methods.values()):
        if operation.get("responses", {}).pop("422", None):
            operation["responses"]["4XX"] = _PROBLEM
    return paths


def _operation(target: Target, schemas: dict[str, Any]) -> dict[str, Any]:
    handler, route = target.handler, target.route
    schema = _shared(handler.schema_, handler.name, schemas)
    properties: dict[str, Any] = schema.get("properties", {})
    described: dict[str, Any] = {
        "tags": [target.service],
        "operationId": handler.name,
        "summary": handler.summary or handler.name,
        "description": str(schema.get("description", "")),
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": properties.get(name, {})} for name in target.fields
        ],
        "responses": _responses(target, schemas),
    }
    rest = {name: part for name, part in properties.items() if name not in target.fields}
    required = [name for name in schema.get("required", []) if name in rest]
    if target.is_query:
        described["parameters"] += [
            {"name": name, "in": "query", "required": name in required, "schema": part} for name, part in rest.items()
        ]
    else:
        body = {"type": "object", "properties": rest, "required": required, "additionalProperties": False}
        described["requestBody"] = {"required": bool(required), "content": {"application/json": {"schema": body}}}
        described["parameters"].append({
            "name": "Idempotency-Key", "in": "header", "required": route.idempotency_key == "required",
            "schema": {"type": "string", "maxLength": 255},
            "description": "The same key is the same request: it runs once, and is answered again from the record.",
        })  # fmt: skip
    if handler.requires:
        described["description"] += f"\n\nRequires: {', '.join(handler.requires)}"
    return described


def _responses(target: Target, schemas: dict[str, Any]) -> dict[str, Any]:
    away = {**_PROBLEM, "description": "The service or the broker is away"}
    responses: dict[str, Any] = {"4XX": _PROBLEM, "5XX": _PROBLEM, "503": away}
    if target.handler.reply_schema is None:
        responses["204"] = {"description": "Done"}
    else:
        reply = _shared(target.handler.reply_schema, f"{target.handler.name}.reply", schemas)
        responses[str(target.route.status)] = {"description": "Done", "content": {"application/json": {"schema": reply}}}
    if not target.is_query:
        responses["202"] = {
            "description": "Still running: follow Location",
            "headers": {"Location": {"schema": {"type": "string"}}, "Retry-After": {"schema": {"type": "integer"}}},
        }
    return responses


def _shared(schema: dict[str, Any], under: str, schemas: dict[str, Any]) -> dict[str, Any]:
    """`schema` with its definitions moved to the document's components.

    Each under its handler's name: two messages may call different things a Line, and one class reads otherwise than it writes.
    """
    text = json.dumps(schema).replace('"#/$defs/', f'"#/components/schemas/{under}.')
    moved: dict[str, Any] = json.loads(text)
    for name, part in moved.pop("$defs", {}).items():
        schemas[f"{under}.{name}"] = part
    return moved
