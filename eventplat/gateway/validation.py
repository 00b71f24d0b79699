"""Validation: a request's bytes against the schema its service has announced.

JSON is read strictly: no duplicate names, no NaN, no number that would arrive as another one, no deep nesting, no
text that a database or the wire cannot hold (U+0000, half a surrogate pair). Path and query parameters are text; they
become what the schema says. Fields that the schema does not know are refused here, while services ignore them, so that
a client's slip of the pen is told at once and a producer's new field is not an outage.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

import jsonschema_rs

from eventplat.errors import InvalidRequest, TooLarge, UnreadableJson
from eventplat.messages.codec import check_size

DIGITS_MAX = 18
NAMED_MAX = 10      # wrong fields that an answer names

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")


class Schema:
    """One announced schema, compiled; it refers to nothing outside itself.

    Raises:
        ValueError: It is no JSON schema.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema
        self._validator = jsonschema_rs.validator_for(schema, offline=True)  # else a `$ref` makes the gateway fetch any URL
        self.properties: dict[str, Any] = schema.get("properties", {})

    def check(self, value: Mapping[str, Any]) -> None:
        """Refuse what does not fit.

        Raises:
            InvalidRequest: With the first wrong fields, each by its pointer.
        """
        errors = []
        for error in self._validator.iter_errors(value):
            pointer = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in error.instance_path)
            errors.append({"pointer": pointer, "detail": error.message[:200]})
            if len(errors) == NAMED_MAX:
                break
        if errors:
            raise Wrong(errors)

    def from_text(self, name: str, values: Sequence[str]) -> Any:
        """What the text of a path or query parameter means; left as text where it cannot be that.

        Raises:
            Wrong: One value is asked for, and there are several.
        """
        kinds: set[str] = set()
        items: Any = {}
        for part in self._parts(self.properties.get(name, {})):
            kinds |= {part["type"]} if isinstance(part.get("type"), str) else set(part.get("type", ()))
            items = part.get("items", items)
        if "array" in kinds:
            inner = {part["type"] for part in self._parts(items) if isinstance(part.get("type"), str)}
            return [_scalar(value, inner) for value in values]
        if len(values) > 1:
            raise Wrong([{"pointer": f"/{name}", "detail": f"is given {len(values)} times"}])
        return _scalar(values[0], kinds)

    def normal_key(self, name: str, value: Any) -> str | None:
        """A message's key as its class writes it: the same key always has the same text, whatever spelling was sent."""
        if value is None:
            value = self.properties.get(name, {}).get("default")
        if value is None:
            return None
        for part in self._parts(self.properties.get(name, {})):
            if part.get("format") == "uuid" and isinstance(value, str):
                return _canonical(value)
            if part.get("type") == "integer" and isinstance(value, float):
                return str(int(value))
        return str(value)

    def _parts(self, part: Any, followed: frozenset[str] = frozenset()) -> Iterator[Mapping[str, Any]]:
        """`part` and its alternatives, with references followed."""
        if not isinstance(part, Mapping):
            return
        reference = part.get("$ref")
        if isinstance(reference, str) and reference not in followed:
            found: Any = self._schema
            for step in reference.removeprefix("#/").split("/"):
                found = found.get(step) if isinstance(found, Mapping) else None
            yield from self._parts(found, followed | {reference})
        yield part
        for alternative in (*part.get("anyOf", ()), *part.get("oneOf", ()), *part.get("allOf", ())):
            yield from self._parts(alternative, followed)


class Wrong(InvalidRequest):
    """A request with fields that do not fit; `errors` names them."""

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__("; ".join(f"{error['pointer'] or 'body'}: {error['detail']}" for error in errors[:3]))
        self.errors = errors


def read_object(body: bytes) -> dict[str, Any]:
    """`body` as one JSON object.

    Raises:
        UnreadableJson: It is not, or not one that every reader would understand alike.
    """
    try:
        check_size(body)
        value = json.loads(
            body.decode("utf-8"), object_pairs_hook=_once, parse_int=_int, parse_float=_float, parse_constant=_constant
        )
        if b"\\u" in body:  # the only way to either in UTF-8 that json takes
            _check_texts(value)
    except TooLarge as error:
        raise UnreadableJson(str(error.args[0])) from None
    except (ValueError, RecursionError, ArithmeticError) as error:
        raise UnreadableJson(str(error)[:200]) from None
    if not isinstance(value, dict):
        raise UnreadableJson(f"it is a {type(value).__name__}, not an object")
    return value


def check_text(text: str) -> None:
    """Refuse what a database or the wire cannot hold.

    Raises:
        ValueError: U+0000, or half a surrogate pair.
    """
    if "\0" in text:
        raise ValueError("a text holds U+0000")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("a text holds half a surrogate pair") from None


def _check_texts(value: Any) -> None:
    if isinstance(value, str):
        check_text(value)
    elif isinstance(value, dict):
        for name, inner in value.items():
            check_text(name)
            _check_texts(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_texts(inner)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the name {twice[:50]!r} stands there twice")
    return found


def _int(text: str) -> int:
    if len(text.lstrip("-")) > DIGITS_MAX:
        raise ValueError(f"a number has more than {DIGITS_MAX} digits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large")
    if Decimal(repr(value)) != Decimal(text):
        raise ValueError(f"{text[:30]} would arrive as {value!r}: send it as a text")
    return value


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _canonical(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        return text  # the service says what is wrong with it


def _scalar(value: str, kinds: set[str]) -> Any:
    if "string" in kinds:  # a price of "1.10" stays exact
        return value
    if "integer" in kinds and _INTEGER.fullmatch(value):
        return int(value)
    if "number" in kinds and _NUMBER.fullmatch(value) and Decimal(repr(float(value))) == Decimal(value):
        return float(value)
    if "boolean" in kinds and value in ("true", "false"):
        return value == "true"
    return value
