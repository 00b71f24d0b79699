"""Validation: strict JSON, text to values, and errors that name the field."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventplat.errors import InvalidRequest, UnreadableJson
from eventplat.gateway.validation import Schema, Wrong, read_object

ORDER = {
    "type": "object",
    "additionalProperties": False,
    "required": ["order_id", "quantity"],
    "properties": {
        "order_id": {"type": "string", "minLength": 1},
        "quantity": {"type": "integer", "minimum": 1},
        "price": {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^\d+(\.\d+)?$"}]},
        "gift": {"type": "boolean", "default": False},
        "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
        "ratio": {"type": "number"},
        "sizes": {"type": "array", "items": {"type": "integer"}},
        "names": {"type": "array", "items": {"$ref": "#/$defs/Name"}},
        "colour": {"$ref": "#/$defs/Colour"},
        "run": {"type": "string", "format": "uuid"},
        "lane": {"type": "integer", "default": 7},
        "a/b~c": {"type": "string"},
    },
    "$defs": {"Name": {"type": "string"}, "Colour": {"enum": [1, 2], "type": "integer"}},
}
SCHEMA = Schema(ORDER)


def pointers(value: dict[str, Any]) -> list[str]:
    with pytest.raises(Wrong) as raised:
        SCHEMA.check(value)
    return sorted(error["pointer"] for error in raised.value.errors)


def test_what_fits_passes() -> None:
    SCHEMA.check({"order_id": "1", "quantity": 1, "sizes": [1, 2], "names": ["a"], "colour": 2})


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"quantity": 0}, ["/quantity"]),
        ({"quantity": -1}, ["/quantity"]),
        ({"quantity": "1"}, ["/quantity"]),
        ({"quantity": True}, ["/quantity"]),
        ({"quantity": None}, ["/quantity"]),
        ({"quantity": 1.5}, ["/quantity"]),
        ({"order_id": 5}, ["/order_id"]),
        ({"order_id": ""}, ["/order_id"]),
        ({"sizes": [1, "x"]}, ["/sizes/1"]),
        ({"sizes": {}}, ["/sizes"]),
        ({"colour": 3}, ["/colour"]),
        ({"is_admin": True}, [""]),
        ({"a/b~c": 1}, ["/a~1b~0c"]),
        ({"quantity": 0, "order_id": ""}, ["/order_id", "/quantity"]),
    ],
    ids=str,
)
def test_an_error_names_the_field_that_is_wrong(changes: dict[str, Any], wrong: list[str]) -> None:
    assert pointers({"order_id": "1", "quantity": 1, **changes}) == wrong


def test_a_missing_and_an_unknown_field_are_named() -> None:
    with pytest.raises(InvalidRequest, match="quantity"):
        SCHEMA.check({"order_id": "1"})
    with pytest.raises(InvalidRequest, match="is_admin"):
        SCHEMA.check({"order_id": "1", "quantity": 1, "is_admin": True})


def test_an_answer_names_ten_errors_at_most_and_repeats_no_long_value() -> None:
    with pytest.raises(Wrong) as raised:
        SCHEMA.check({"order_id": "1", "quantity": 1, "sizes": ["x" * 10_000] * 50})

    assert len(raised.value.errors) == 10
    assert max(len(error["detail"]) for error in raised.value.errors) <= 200


@pytest.mark.parametrize(
    ("name", "texts", "value"),
    [
        ("quantity", ["5"], 5), ("quantity", ["-5"], -5), ("quantity", ["5.0"], "5.0"), ("quantity", ["five"], "five"),
        ("quantity", ["9" * 18], int("9" * 18)), ("quantity", ["9" * 19], "9" * 19), ("quantity", ["٣"], "٣"),
        ("quantity", [" 5"], " 5"), ("quantity", ["5\n"], "5\n"), ("quantity", [""], ""), ("quantity", ["1e3"], "1e3"),
        ("order_id", ["5"], "5"), ("order_id", ["true"], "true"), ("unknown", ["5"], "5"),
        ("price", ["1.10"], "1.10"), ("ratio", ["1.25"], 1.25), ("ratio", ["0.1000000000000000055"], "0.1000000000000000055"),
        ("gift", ["true"], True), ("gift", ["false"], False), ("gift", ["True"], "True"), ("gift", ["1"], "1"),
        ("limit", ["5"], 5), ("colour", ["2"], 2),
        ("sizes", ["1", "2"], [1, 2]), ("sizes", ["1"], [1]), ("sizes", ["x"], ["x"]), ("names", ["1", "2"], ["1", "2"]),
    ],
)  # fmt: skip
def test_text_becomes_what_the_schema_says_or_stays_text(name: str, texts: list[str], value: Any) -> None:
    found = SCHEMA.from_text(name, texts)

    assert found == value
    assert type(found) is type(value)


def test_a_parameter_that_is_given_twice_is_refused_where_one_is_asked_for() -> None:
    with pytest.raises(Wrong, match="2 times"):
        SCHEMA.from_text("quantity", ["1", "2"])


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("order_id", "o-1", "o-1"), ("order_id", None, None), ("lane", None, "7"), ("lane", 5, "5"), ("lane", 5.0, "5"),
        ("run", "6F9619FF-8B86-D011-B42D-00C04FC964FF", "6f9619ff-8b86-d011-b42d-00c04fc964ff"),
        ("run", "6f9619ff8b86d011b42d00c04fc964ff", "6f9619ff-8b86-d011-b42d-00c04fc964ff"),
        ("run", "no uuid", "no uuid"),
    ],
)  # fmt: skip
def test_a_key_has_one_text_however_it_was_spelt(name: str, value: Any, key: str | None) -> None:
    assert SCHEMA.normal_key(name, value) == key


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"{", b"}", b"nonsense", b"{'a': 1}", b'{"a": 1,}', b'{"a"}', b"[1]", b"1", b'"text"', b"null", b"true",
        b'{"a": 1}{"b": 2}', b'{"a": 1} x', b'\xef\xbb\xbf{"a": 1}', '{"a": 1}'.encode("utf-16"), b'{"a": "\xff"}', b"\x00",
        b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -Infinity}', b'{"a": 1e999}', b'{"a": 1e-999}', b'{"a": 01}', b'{"a": +1}',
        b'{"a": ' + b"9" * 19 + b"}", b'{"a": -' + b"9" * 19 + b"}", b'{"a": ' + b"9" * 5_000 + b"}",
        b'{"a": 9007199254740993.0}', b'{"a": 1234567890.12345678901}', b'{"a": 0e99999999999999999999}',
        b'{"a": 1, "a": 1}', b'{"a": 1, "\\u0061": 2}', b'{"b": {"a": 1, "a": 2}}', b'{"b": [{"a": 1, "a": 2}]}',
        b'{"a": "\\u0000"}', b'{"a": ["x\\u0000"]}', b'{"\\u0000": 1}',
        b'{"a": "\\ud800"}', b'{"a": "\\udc00\\ud800"}', b'{"\\ud800": 1}', b'{"a": "\n"}',
        b'{"a": ' * 40 + b"1" + b"}" * 40, b'{"a": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:40]),
)  # fmt: skip
def test_what_readers_would_understand_differently_is_no_json(body: bytes) -> None:
    with pytest.raises(UnreadableJson):
        read_object(body)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"{}", {}), (b' {"a" : 1 } \n', {"a": 1}), (b'{"a": 999999999999999999}', {"a": 999999999999999999}),
        (b'{"a": 0.1}', {"a": 0.1}), (b'{"a": 0.30000000000000004}', {"a": 0.30000000000000004}), (b'{"a": 19.90}', {"a": 19.9}),
        (b'{"a": 1e2}', {"a": 100.0}), (b'{"a": -0}', {"a": 0}), (b'{"a": "\\ud83d\\ude00"}', {"a": "😀"}),
        (b'{"a": "\\\\u0000"}', {"a": "\\u0000"}), ('{"a": "ü"}'.encode(), {"a": "ü"}),
        (b'{"a": "[[[[' + b"[" * 40 + b'"}', {"a": "[" * 44}),
        (b'{"a": ' * 31 + b"{}" + b"}" * 31, None),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_json_within_the_limits_is_read(body: bytes, value: Any) -> None:
    assert value is None or read_object(body) == value
    read_object(body)


@pytest.mark.timeout(60)
def test_a_duplicate_among_many_names_costs_one_pass() -> None:
    # counting each name anew took 6 s for a quarter of them, in which the gateway answered nobody: a hundred seconds here
    body = b"{" + b",".join(b'"%x":0' % number for number in range(100_000)) + b',"z":0,"z":0}'

    with pytest.raises(UnreadableJson, match="'z' stands there twice"):
        read_object(body)


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.integers(-10**17, 10**17) | st.floats(allow_nan=False,
       allow_infinity=False) | st.text(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
       max_leaves=20)))  # fmt: skip
def test_what_python_writes_is_read_back_or_refused_and_never_changed(value: dict[str, Any]) -> None:
    try:
        assert read_object(json.dumps(value).encode()) == value
    except UnreadableJson:
        assert "\\u0000" in json.dumps(value) or "\\ud" in json.dumps(value)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(body: bytes) -> None:
    with contextlib.suppress(UnreadableJson):
        assert isinstance(read_object(body), dict)


@pytest.mark.parametrize(
    "schema",
    [{"type": 5}, {"type": "objekt"}, {"$ref": "#/nope"}, {"properties": {"a": {"pattern": "("}}}, {"$ref": "http://127.0.0.1:9/s.json"},
     {"properties": {"a": {"$ref": "file:///etc/hostname"}}}, {"$schema": "http://127.0.0.1:9/dialect"}],
    ids=str,
)  # fmt: skip
def test_a_schema_that_is_none_or_points_elsewhere_is_refused(schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("fetched a schema"))

    with pytest.raises(ValueError):  # noqa: PT011 - whatever the validator calls it
        Schema(schema)


def test_a_schema_is_not_fetched_from_a_server_that_would_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"

        with pytest.raises(ValueError):  # noqa: PT011
            Schema({"properties": {"a": {"$ref": url}}})
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_schema_that_refers_to_itself_does_not_run_for_ever() -> None:
    schema = Schema({
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/A"}},
        "$defs": {
            "A": {"anyOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}]},
            "B": {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/A"}]},
        },
    })

    assert schema.from_text("a", ["5"]) == 5
