"""Bad input: everything wrong that can be sent to a route, made from the schema it announces. Pure.

A good request is built from the schema, then spoiled in one place: a field at any depth that is missing, unknown, of another
type, empty, negative, zero, huge or not what its pattern says; a body that is not JSON; a parameter that is none. What the
schema allows is not bad, so each value is first held against it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import jsonschema_rs

BODY_BYTES_MAX = 262_144
JSON = "application/json"

VALUES: dict[str, Any] = {
    "null": None,
    "a boolean": True,
    "a text": "many",
    "a number": 7,
    "a fraction": 1.5,
    "a list": [],
    "an object": {},
    "an empty text": "",
    "a blank": " ",
    "zero": 0,
    "zero as a text": "0",
    "negative": -1,
    "negative as a text": "-1.00",
    "huge": 10**17,
    "huge as a text": "9" * 30,
    "far too long": "x" * 5_000,
    "an exponent": "1e3",
    "many decimals": "1.23456",
    "a line break": "A-1\n",
    "another alphabet": "१२३",
    "an injection": "'; DROP TABLE item; --",
}
BODIES: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 400),
    "half an object": (b'{"a": 1', 400),
    "plain words": (b"two of those, please", 400),
    "a form": (b"sku=A&quantity=1", 400),
    "a list": (b"[]", 400),
    "a text": (b'"x"', 400),
    "null": (b"null", 400),
    "NaN": (b'{"a": NaN}', 400),
    "a name twice": (b'{"a": 1, "a": 2}', 400),
    "a number of 40 digits": (b'{"a": ' + b"9" * 40 + b"}", 400),
    "a number beyond floats": (b'{"a": 1e999}', 400),
    "no UTF-8": (b'{"a": "\xff\xfe"}', 400),
    "U+0000": (b'{"a": "\\u0000"}', 400),
    "half a surrogate pair": (b'{"a": "\\ud800"}', 400),
    "a hundred levels": (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", 400),
    "one byte over the limit": (b'{"a": "' + b"x" * (BODY_BYTES_MAX - 8) + b'"}', 413),
    "four times the limit": (b'{"a": "' + b"x" * (4 * BODY_BYTES_MAX) + b'"}', 413),
}
CONTENT_TYPES = ("text/plain", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json")
KEYS = {"empty": "", "far too long": "k" * 300, "with a blank": "a b", "not ASCII": "clé"}


@dataclass(frozen=True)
class Request:
    """One request, and what is wrong with it; `status`: what it is to be answered."""

    method: str
    path: str
    what: str
    status: int
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method} {self.path[:60]} with {self.what}"


@dataclass(frozen=True)
class Operation:
    """One announced route."""

    method: str
    template: str
    parameters: Mapping[str, Any]            # of the path: name to schema
    body: Mapping[str, Any] | None           # None: it takes none
    schemas: Mapping[str, Any]               # what `$ref` leads to

    def __str__(self) -> str:
        return f"{self.method} {self.template}"

    def good(self) -> Request:
        """A request with nothing wrong in it, as far as the schema can tell."""
        content = None if self.body is None else json.dumps(example(self.body, self.schemas)).encode()
        return self._request("nothing wrong", content=content)

    def bad(self) -> Iterator[Request]:
        """Every bad request to this route."""
        yield from self._bad_paths()
        yield self._request("an unknown parameter in its query", query="?surprise=1", status=422, content=self.good().content)
        if self.body is not None:
            yield from self._bad_fields(self.body)
            for what, (body, status) in BODIES.items():
                is_allowed = not body and not self.body.get("required")
                if not is_allowed:
                    yield self._request(f"a body that is {what}", content=body, status=status)
            yield from self._bad_headers()
        else:
            yield self._request("a body where it takes none", content=b'{"surprise": 1}', status=422)
            yield self._request("a body over the limit", content=b"x" * (BODY_BYTES_MAX + 1), status=413)

    def _bad_fields(self, schema: Mapping[str, Any]) -> Iterator[Request]:
        good = example(schema, self.schemas)
        for what, body in spoiled(good, schema, self.schemas):
            yield self._request(what, content=json.dumps(body).encode(), status=422)

    def _bad_paths(self) -> Iterator[Request]:
        for name, schema in self.parameters.items():
            for what, value in VALUES.items():
                text = value if isinstance(value, str) else json.dumps(value)
                if text and not fits(text, schema, self.schemas):
                    yield self._spoiled_path(name, what, quote(text, safe=""))
            for what, raw in {"no UTF-8": "%ff%fe", "U+0000": "a%00b", "a way up": "%2e%2e%2f%2e%2e"}.items():
                yield self._spoiled_path(name, what, raw)

    def _spoiled_path(self, name: str, what: str, raw: str) -> Request:
        return self._request(f"a {name} in its path that is {what}", values={name: raw}, status=422, content=self.good().content)

    def _bad_headers(self) -> Iterator[Request]:
        good = self.good().content
        for kind in CONTENT_TYPES:
            yield self._request(f"the content type {kind}", content=good, status=415, headers={"Content-Type": kind})
        yield self._request("no content type", content=good, status=415, headers={"Content-Type": ""})
        yield self._request("a body said to be gzip", content=good, status=415, headers={"Content-Type": JSON, "Content-Encoding": "gzip"})
        for what, key in KEYS.items():
            yield self._request(
                f"an Idempotency-Key that is {what}", content=good, status=400, headers={"Content-Type": JSON, "Idempotency-Key": key}
            )

    def _request(
        self, what: str, *, status: int = 200, content: bytes | None = None, headers: Mapping[str, str] | None = None,
        values: Mapping[str, str] | None = None, query: str = "",
    ) -> Request:  # fmt: skip
        path = self.template
        for name, schema in self.parameters.items():
            path = path.replace(f"{{{name}}}", (values or {}).get(name) or quote(str(example(schema, self.schemas))))
        return Request(self.method, path + query, what, status, content, {"Content-Type": JSON} if headers is None else headers)


def operations(document: Mapping[str, Any]) -> list[Operation]:
    """The announced routes of an OpenAPI document; the gateway's own are left out."""
    schemas = document["components"]["schemas"]
    found = []
    for template, methods in document["paths"].items():
        for method, operation in methods.items():
            if operation.get("tags") == ["gateway"]:
                continue
            parameters = {each["name"]: each["schema"] for each in operation.get("parameters", ()) if each["in"] == "path"}
            body = operation.get("requestBody", {}).get("content", {}).get(JSON, {}).get("schema")
            found.append(Operation(method.upper(), template, parameters, body, schemas))
    return found


def spoiled(good: Any, schema: Mapping[str, Any], schemas: Mapping[str, Any], at: str = "body") -> Iterator[tuple[str, Any]]:
    """Copies of `good`, each wrong in one place, with what is wrong there."""
    schema = resolved(schema, schemas)
    if at != "body":
        for what, value in VALUES.items():
            if not fits(value, schema, schemas):
                yield f"a {at} that is {what}", value
    if isinstance(good, dict):
        yield f"a field of {at} that nobody knows", {**good, "surprise": 1}
        for name in schema.get("required", ()):
            yield f"no {name} in {at}", {other: value for other, value in good.items() if other != name}
        for name, part in schema.get("properties", {}).items():
            for what, value in spoiled(good.get(name), part, schemas, name):
                yield what, {**good, name: value}
    if isinstance(good, list):
        for what, value in spoiled(good[0], schema["items"], schemas, f"{at}[0]"):
            yield what, [value, *copy.deepcopy(good[1:])]
        if "maxItems" in schema:
            yield f"a {at} that is longer than allowed", good * (schema["maxItems"] + 1)


def example(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Any:
    """A value that fits; every property is there, and a list has one item.

    Raises:
        AssertionError: This generator does not know how: teach it.
    """
    schema = resolved(schema, schemas)
    value = _example(schema, schemas)
    assert fits(value, schema, schemas), f"{value!r} does not fit {schema}"
    return value


def _example(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Any:
    if "examples" in schema:
        return schema["examples"][0]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return example(schema["anyOf"][0], schemas)
    match schema.get("type"):
        case "object":
            return {name: example(part, schemas) for name, part in schema.get("properties", {}).items()}
        case "array":
            return [example(schema["items"], schemas)]
        case "integer":
            return max(schema.get("minimum", 1), 1)
        case "boolean":
            return True
        case _:
            return "A-1"


def fits(value: Any, schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> bool:
    """Whether `value` is what `schema` asks for."""
    document = {**resolved(schema, schemas), "components": {"schemas": dict(schemas)}}
    return bool(jsonschema_rs.validator_for(document, offline=True).is_valid(value))


def resolved(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Mapping[str, Any]:
    """`schema`, or what it refers to."""
    while "$ref" in schema:
        schema = schemas[schema["$ref"].removeprefix("#/components/schemas/")]
    return schema
