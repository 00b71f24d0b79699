"""Validation: a request's bytes against the schema its service has announced.

JSON is read strictly: no duplicate names, no NaN, no number over 18 digits, no deep nesting. Path and query
parameters are text; they become what the schema says. Fields that the schema does not know are refused here, while
services ignore them, so that a client's slip of the pen is told at once and a producer's new field is not an outage.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema_rs

from eventplat.errors import InvalidRequest, TooLarge, UnreadableJson
from eventplat.messages.codec import check_size

DIGITS_MAX = 18
NAMED_MAX = 10      # wrong fields that an answer names

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")


class Schema:
    """One announced schema, compiled."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema
        self._validator = jsonschema_rs.validator_for(schema)
        self.properties: dict[str, Any] = schema.get("properties", {})

    def check(self, value: Mapping[str, Any]) -> None:
        """Refuse what does not fit.

        Raises:
            InvalidRequest: With the first wrong fields, each by its pointer.
        """
        errors = []
        for error in self._validator.iter_errors(value):
            pointer = "/" + "/".join(str(part) for part in error.instance_path)
            errors.append({"pointer": pointer if pointer != "/" else "", "detail": error.message[:200]})
            if len(errors) == NAMED_MAX:
                break
        if errors:
            raise Wrong(errors)

    def from_text(self, name: str, values: Sequence[str]) -> Any:
        """What the text of a path or query parameter means; left as text where it cannot be that."""
        kinds = self._kinds(self.properties.get(name, {}))
        if "array" in kinds:
            return [_scalar(value, {"string"}) for value in values]
        return _scalar(values[-1], kinds)

    def _kinds(self, part: Mapping[str, Any]) -> set[str]:
        if "$ref" in part:
            found: Any = self._schema
            for step in part["$ref"].removeprefix("#/").split("/"):
                found = found[step]
            return self._kinds(found)
        kinds = {part["type"]} if isinstance(part.get("type"), str) else set(part.get("type", ()))
        for alternative in part.get("anyOf", ()):
            kinds |= self._kinds(alternative)
        return kinds


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
    except TooLarge as error:
        raise UnreadableJson(str(error.args[0])) from None
    except (ValueError, RecursionError) as error:
        raise UnreadableJson(str(error)[:200]) from None
    if not isinstance(value, dict):
        raise UnreadableJson(f"it is a {type(value).__name__}, not an object")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return found


def _int(text: str) -> int:
    if len(text.lstrip("-")) > DIGITS_MAX:
        raise ValueError(f"a number has more than {DIGITS_MAX} digits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large")
    return value


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _scalar(value: str, kinds: set[str]) -> Any:
    if "integer" in kinds and _INTEGER.fullmatch(value):
        return int(value)
    if "number" in kinds and _NUMBER.fullmatch(value):
        return float(value)
    if "boolean" in kinds and value in ("true", "false"):
        return value == "true"
    return value
