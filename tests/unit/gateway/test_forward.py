"""One request to the service and back: what is sent, what is answered, what is refused before anybody hears of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jwt
import pytest
from structlog.contextvars import get_contextvars

from eventplat import failpoints
from eventplat.broker.transport import Nacked, Outcome, Outgoing
from eventplat.errors import BrokerUnavailable
from eventplat.gateway.forward import KEY_CHARS_MAX
from eventplat.hashing import bucket_of, lane_of
from eventplat.messages.envelope import DONE, FAILED, REJECTED, RUNNING, VOID, Envelope
from eventplat.security.grant import GrantVerifier
from eventplat.security.principal import EVERYTHING, Principal
from tests.unit.gateway.house import SECRET, TOKENS, House, is_problem, on_loop, on_loop_with

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def bearer(**changes: Any) -> dict[str, str]:
    claims = {"sub": "ann", "aud": "eventplat", "exp": int(time.time()) + 60, "scope": "orders:write orders:read", **changes}
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, 'HS256')}"}


def says(type_: str, body: bytes = b"{}") -> Any:
    return lambda _: (type_, body)


def silent(_: Envelope) -> None:
    return None


# --- a command ------------------------------------------------------------------------------------


@on_loop
async def test_a_command_goes_to_its_owner_and_its_reply_comes_back_byte_for_byte(house: House) -> None:
    response = await house.place(traceparent=TRACE)

    assert (response.status_code, response.content) == (201, b'{"order_id": "o-1",   "quantity": 3}')
    assert response.headers["content-type"] == "application/json"
    sent, delivery = house.received[0], house.deliveries[0]
    assert (sent.type, json.loads(sent.body)) == ("shop.place-order.v1", {"order_id": "o-1", "quantity": 3})
    assert (sent.key, sent.stream, sent.app_id, sent.traceparent) == ("o-1", "order", "gateway", TRACE)
    assert sent.correlation_id == sent.id == response.headers["x-correlation-id"]
    assert response.headers["traceparent"] == TRACE
    assert delivery.routing_key == f"shop.order.place-order.v1.{lane_of(bucket_of('o-1'))}"
    assert delivery.properties.expiration is None


@on_loop
async def test_the_operation_is_named_also_when_it_is_done(house: House) -> None:
    response = await house.place()

    operation = await house.http.get(f"/operations/{response.headers['operation-id']}")

    assert operation.json()["status"] == "done"


@on_loop
async def test_one_key_is_one_command_and_without_a_key_each_is_another(house: House) -> None:
    for key in ("k", "k", "K"):
        assert (await house.place(Idempotency_Key=key)).status_code == 201
    for _ in range(2):
        assert (await house.place()).status_code == 201

    first, second, *others = [envelope.id for envelope in house.received]
    assert first == second
    assert len({first, *others}) == 4


@on_loop
async def test_a_command_that_only_acknowledges_has_no_content(house: House) -> None:
    house.answer = says(DONE, b"null")

    response = await house.http.delete("/orders/o-1", headers={"Idempotency-Key": "k"})

    assert (response.status_code, response.content) == (204, b"")
    assert json.loads(house.received[0].body) == {"order_id": "o-1"}


@on_loop
async def test_a_route_that_requires_a_key_says_so(house: House) -> None:
    is_problem(await house.http.delete("/orders/o-1"), 400, "EP810")
    is_problem(await house.http.delete("/orders/o-1", headers={"Idempotency-Key": "a b"}), 400, "EP810")
    assert house.received == []


@on_loop
async def test_a_path_parameter_is_a_field_and_must_not_contradict_the_body(house: House) -> None:
    run = "6F9619FF-8B86-D011-B42D-00C04FC964FF"

    assert (await house.http.put(f"/runs/{run}")).status_code == 200
    assert (await house.http.put(f"/runs/{run}", json={"run": run})).status_code == 200
    problem = is_problem(await house.http.put(f"/runs/{run}", json={"run": "x"}), 422, "EP809")

    assert problem["errors"][0]["pointer"] == "/run"
    assert [envelope.key for envelope in house.received] == [run.lower()] * 2, "as UUID writes it, whatever spelling was sent"


@on_loop
async def test_percent_encoding_is_undone_in_values_and_is_no_separator(house: House) -> None:
    house.answer = says(DONE, b"null")
    for sent, got in (("a%2Fb", "a/b"), ("%C3%BC", "ü"), ("a%20b", "a b"), ("%257B", "%7B"), ("..%2f..", "../..")):
        await house.http.delete(f"/orders/{sent}", headers={"Idempotency-Key": sent})
        assert json.loads(house.received[-1].body) == {"order_id": got}


@pytest.mark.parametrize("path", ["/orders/%FF", "/orders/%00", "/orders/a%00b", "/orders/%C3%28", "/orders/%ED%A0%80"])
@on_loop
async def test_a_path_that_is_no_text_is_refused(house: House, path: str) -> None:
    is_problem(await house.http.delete(path, headers={"Idempotency-Key": "k"}), 422, "EP809")
    assert house.received == []


# --- its other endings ----------------------------------------------------------------------------


@on_loop
async def test_a_business_no_is_a_problem_with_its_facts(house: House) -> None:
    house.answer = says(REJECTED, b'{"reason": "too_many", "status": 409, "facts": {"limit": 100, "status": 7, "detail": "less"}}')

    problem = is_problem(await house.place(), 409, "EP700")

    assert (problem["title"], problem["reason"], problem["limit"], problem["detail"]) == ("Too many", "too_many", 100, "less")


@on_loop
async def test_a_business_no_says_the_services_next_move_and_else_one_for_its_status(house: House) -> None:
    moves = []
    for status, facts in ((409, {"next": "Buy less"}), (409, {}), (422, {}), (404, {}), (403, {"next": None})):
        house.answer = says(REJECTED, json.dumps({"reason": "no", "status": status, "facts": facts}).encode())
        moves.append(is_problem(await house.place(), status, "EP700")["next"])

    assert moves[0] == "Buy less"
    assert len(set(moves)) == len(moves)


@on_loop
async def test_a_command_with_parameters_and_a_question_with_a_body_are_refused(house: House) -> None:
    body = {"order_id": "o-1", "quantity": 3}

    command = is_problem(await house.http.post("/orders?quantity=4&quick=1", json=body), 422, "EP809")
    question = await house.http.request("GET", "/orders/o-1", json={"limit": 3})

    assert [error["pointer"] for error in command["errors"]] == ["/quantity", "/quick"]
    is_problem(question, 422, "EP809")
    is_problem(await house.http.request("GET", "/orders/o-1", content=b"x" * 300_000), 413, "EP806")
    assert house.received == []


@on_loop
async def test_the_same_key_with_another_body_is_told_as_the_service_tells_it(house: House) -> None:
    house.answer = says(REJECTED, b'{"reason": "other_body", "status": 422, "facts": {}}')

    assert is_problem(await house.place(Idempotency_Key="k"), 422, "EP700")["reason"] == "other_body"


@pytest.mark.parametrize("status", [200, 302, 500, 399, 600, -1, "404", None, True])
@on_loop
async def test_a_rejection_is_never_a_success_or_a_fault(house: House, status: Any) -> None:
    house.answer = says(REJECTED, json.dumps({"reason": "no", "status": status, "facts": None}).encode())

    is_problem(await house.place(), 409, "EP700")


@on_loop
async def test_a_command_out_of_attempts_is_500_and_says_why_to_a_developer(house: House) -> None:
    house.answer = says(FAILED, b'{"error": "column secret_name", "code": "ProgrammingError"}')

    assert "column secret_name" in is_problem(await house.place(), 500, "EP702")["detail"]


@on_loop
async def test_production_does_not_tell_callers_what_broke(house: House) -> None:
    house.answer = says(FAILED, b'{"error": "column secret_name", "code": "ProgrammingError"}')
    house.app.state.forwarder.settings = house.settings.model_copy(update={"profile": "production"})

    assert "secret_name" not in (await house.place()).text


@on_loop
async def test_a_void_command_is_409(house: House) -> None:
    house.answer = says(VOID)

    assert is_problem(await house.place(), 409, "EP700")["reason"] == "void"


@on_loop
async def test_a_command_that_still_runs_is_409_with_its_operation(house: House) -> None:
    house.answer = says(RUNNING)

    response = await house.place(Idempotency_Key="k")

    is_problem(response, 409, "EP805")
    assert response.headers["location"].startswith("/operations/")
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b"5"])
@pytest.mark.parametrize("type_", [REJECTED, FAILED])
@on_loop
async def test_a_reply_that_makes_no_sense_is_a_problem(house: House, type_: str, body: bytes) -> None:
    house.answer = says(type_, body)

    is_problem(await house.place(), 500, "EP800")


# --- waiting --------------------------------------------------------------------------------------


@on_loop
async def test_when_the_wait_ends_the_work_goes_on_behind_202(house: House) -> None:
    house.answer = silent
    asking = await house.waiting(house.place())

    await house.clock.advance(4.9)
    assert not asking.done()
    await house.clock.advance(0.2)

    response = await asking
    assert response.status_code == 202
    assert response.headers["location"] == f"/operations/{response.json()['operation']}"
    assert response.headers["retry-after"] == "1"
    assert "preference-applied" not in response.headers


@pytest.mark.parametrize(("prefer", "waited", "applied"), [
    ("wait=2", 2, "wait=2"), ("WAIT = 2", 2, "wait=2"), ("respond-async, wait=2", 2, "wait=2"), ("wait=2; x=1", 2, "wait=2"),
    ("wait=0", 0, "wait=0"), ("wait=99", 5, None), ("wait=-1", 5, None), ("wait=²", 5, None), ("wait=2.5", 5, None),
    ("wait=", 5, None), ("wait", 5, None), ("wait=9999999", 5, None), ("x" * 5_000, 5, None),
])  # fmt: skip
@on_loop
async def test_a_client_may_wait_for_less_time_than_the_route(house: House, prefer: str, waited: float, applied: str | None) -> None:
    house.answer = silent
    asking = await house.waiting(house.place(Prefer=prefer.encode("latin-1")))  # type: ignore[arg-type]

    if waited:
        await house.clock.advance(waited - 0.1)
        assert not asking.done()
        await house.clock.advance(0.2)

    response = await asking
    assert response.status_code == 202
    assert response.headers.get("preference-applied") == applied
    assert len(house.received) == 1


@on_loop
async def test_an_operation_is_followed_to_its_end(house: House) -> None:
    house.answer = silent
    location = (await house.place(Prefer="wait=0")).headers["location"]

    for type_, body, expected in (
        (RUNNING, b"{}", {"status": "running"}),
        (DONE, b'{"a":1}', {"status": "done", "result": {"a": 1}}),
        (DONE, b"null", {"status": "done", "result": None}),
        (DONE, b"", {"status": "done", "result": None}),
    ):
        house.answer = says(type_, body)
        response = await house.http.get(location)
        assert (response.status_code, response.json()) == (200, expected)
        assert response.headers.get("retry-after") == ("1" if type_ == RUNNING else None)
    asked = house.received[-1]
    assert (asked.type, json.loads(asked.body)) == ("shop.operation.v1", {"command_id": house.received[0].id})
    assert house.deliveries[-1].routing_key == "shop.operation.v1.one"


@pytest.mark.parametrize(("type_", "body", "status", "code"), [
    (REJECTED, b'{"reason": "too_many", "status": 409, "facts": {"limit": 1}}', "rejected", "EP700"),
    (FAILED, b'{"error": "x", "code": "y"}', "failed", "EP702"),
    (VOID, b"{}", "failed", "EP700"),
])  # fmt: skip
@on_loop
async def test_an_operation_that_did_not_succeed_carries_its_problem(
    house: House, type_: str, body: bytes, status: str, code: str
) -> None:
    house.answer = silent
    location = (await house.place(Prefer="wait=0")).headers["location"]
    house.answer = says(type_, body)

    told = (await house.http.get(location)).json()

    assert (told["status"], told["problem"]["code"]) == (status, code)


@on_loop
async def test_an_operation_whose_owner_does_not_answer_is_504(house: House) -> None:
    house.answer = silent
    location = (await house.place(Prefer="wait=0")).headers["location"]
    asking = await house.waiting(house.http.get(location))

    await house.clock.advance(5.1)

    is_problem(await asking, 504, "EP813")


@pytest.mark.parametrize("id_", ["x", "AAAA", "a" * 3_000, "%00", "é", "../x", "AAAAAAAAAAAAAAAAAAAAAFsic2hvcCIsImEiLCJiIl0"])
@on_loop
async def test_an_operation_id_that_this_gateway_did_not_write_is_404(house: House, id_: str) -> None:
    response = await house.http.get(f"/operations/{id_}")

    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert house.received == []


@on_loop_with(**TOKENS)
async def test_an_operation_is_its_callers_own(house: House) -> None:
    house.answer = silent
    location = (await house.http.post("/orders", json={"order_id": "o", "quantity": 1}, headers={**bearer(), "Prefer": "wait=0"})).headers[
        "location"
    ]

    stranger = await house.http.get(location, headers=bearer(sub="bob"))
    nobody = await house.http.get(location)
    unknown = await house.http.get("/operations/AAAA", headers=bearer())

    assert is_problem(stranger, 404, "EP814") == is_problem(unknown, 404, "EP814")
    is_problem(nobody, 401, "EP801")


# --- a query --------------------------------------------------------------------------------------


@on_loop
async def test_a_query_carries_its_parameters_as_the_schema_types_them(house: House) -> None:
    response = await house.http.get("/orders/o-1?limit=5&full=true&tags=a&tags=b%20c")

    assert response.status_code == 200
    sent, delivery = house.received[0], house.deliveries[0]
    assert json.loads(sent.body) == {"order_id": "o-1", "limit": 5, "full": True, "tags": ["a", "b c"]}
    assert (delivery.routing_key, delivery.properties.expiration) == ("shop.get-order.v1.one", "3000")
    assert sent.deadline_ms == house.clock.time_us() // 1_000 + 3_000


@on_loop
async def test_a_query_that_is_not_answered_is_504(house: House) -> None:
    house.answer = silent
    asking = await house.waiting(house.http.get("/orders/o-1"))

    await house.clock.advance(3.1)

    is_problem(await asking, 504, "EP813")


@pytest.mark.parametrize(
    "query",
    ["limit=x", "limit=1&limit=2", "limit=", "full=maybe", "unknown=1", "order_id=other", "limit=99999999999999999999", "tags=%FF",
     "tags=%00", "tags=%ED%A0%80", "&".join(f"tags={n}" for n in range(101))],
)  # fmt: skip
@on_loop
async def test_a_query_that_does_not_fit_is_422(house: House, query: str) -> None:
    is_problem(await house.http.get(f"/orders/o-1?{query}"), 422, "EP809")
    assert house.received == []


# --- who asks -------------------------------------------------------------------------------------


@on_loop_with(**TOKENS)
async def test_the_grant_says_who_asked_and_services_can_verify_it(house: House) -> None:
    await house.http.post("/orders", json={"order_id": "o-1", "quantity": 3}, headers=bearer())

    sent = house.received[0]
    assert sent.grant is not None
    assert house.keys.grant_public_pem is not None
    principal = GrantVerifier(house.keys.grant_public_pem).verify(sent.grant)
    assert principal == Principal("ann", frozenset({"orders:write", "orders:read"}))
    assert jwt.decode(sent.grant, options={"verify_signature": False})["op"] == sent.id


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": ""}, {"Authorization": "Bearer"}, {"Authorization": "Bearer "}, {"Authorization": "Basic YTpi"},
     {"Authorization": "Bearer x.y.z"}, {"Authorization": "Bearer " + "a" * 10_000}, bearer(exp=1), bearer(aud="other"),
     {"X-User-Id": "ann"}, {"Authorization": bearer()["Authorization"] + "x"}],
    ids=lambda headers: str(headers)[:40],
)  # fmt: skip
@on_loop_with(**TOKENS)
async def test_who_proves_nothing_is_401(house: House, headers: dict[str, str]) -> None:
    response = await house.http.post("/orders", json={"order_id": "o-1", "quantity": 3}, headers=headers)

    is_problem(response, 401, "EP801")
    assert response.headers["www-authenticate"] == "Bearer"
    assert house.received == []


@on_loop_with(**TOKENS)
async def test_who_lacks_a_scope_is_403_with_its_name(house: House) -> None:
    response = await house.http.post("/orders", json={"order_id": "o-1", "quantity": 3}, headers=bearer(scope="orders:read"))

    assert is_problem(response, 403, "EP802")["detail"] == "missing: orders:write"
    assert house.received == []


@on_loop_with(**TOKENS)
async def test_two_callers_with_one_key_send_two_commands(house: House) -> None:
    for subject in ("ann", "bob"):
        headers = {**bearer(sub=subject), "Idempotency-Key": "k"}
        await house.http.post("/orders", json={"order_id": "o-1", "quantity": 3}, headers=headers)

    assert len({envelope.id for envelope in house.received}) == 2


@on_loop_with(gateway_host="0.0.0.0")
async def test_outside_loopback_a_gateway_without_a_key_is_closed(house: House) -> None:
    is_problem(await house.place(), 401, "EP801")
    assert (await house.http.get("/health/live")).status_code == 200


@on_loop_with(gateway_host="0.0.0.0", allow_anonymous=True)
async def test_an_open_gateway_lets_everybody_do_everything(house: House) -> None:
    assert (await house.place()).status_code == 201
    assert house.received[0].grant is not None
    assert EVERYTHING in jwt.decode(house.received[0].grant, options={"verify_signature": False})["scopes"]


@on_loop_with(**TOKENS, allow_anonymous=True)
async def test_where_tokens_are_configured_a_caller_without_one_has_no_scope(house: House) -> None:
    house.answer = says(DONE, b"null")

    is_problem(await house.place(), 403, "EP802")
    assert (await house.http.delete("/orders/o-1", headers={"Idempotency-Key": "k"})).status_code == 204
    assert (await house.http.post("/orders", json={"order_id": "o", "quantity": 1}, headers=bearer())).status_code == 201


# --- hostile requests -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [{"order_id": "o-1"}, {"quantity": 3}, {}, {"order_id": "o-1", "quantity": "3"}, {"order_id": "o-1", "quantity": 0},
     {"order_id": "o-1", "quantity": -3}, {"order_id": "o-1", "quantity": 1_001}, {"order_id": 1, "quantity": 3},
     {"order_id": "o-1", "quantity": 3, "is_admin": True}, {"order_id": "o-1", "quantity": 3, "lines": [{"sku": "a", "x": 1}]},
     {"order_id": "o-1", "quantity": 3, "lines": {}}, {"order_id": None, "quantity": 3}, {"order_id": "o-1", "quantity": 10**17},
     {"order_id": "o" * (KEY_CHARS_MAX + 1), "quantity": 3}],
    ids=lambda body: str(body)[:60],
)  # fmt: skip
@on_loop
async def test_a_body_that_does_not_fit_its_schema_is_422_and_goes_nowhere(house: House, body: dict[str, Any]) -> None:
    problem = is_problem(await house.place(body), 422, "EP809")

    assert problem["errors"]
    assert house.received == []


@pytest.mark.parametrize("content", [
    b"", b"nonsense", b"[]", b"[" * 20_000, b'{"order_id": "\xff", "quantity": 3}', b'{"order_id": "o", "quantity": NaN}',
    b'{"order_id": "o", "quantity": 1, "quantity": 2}', b'{"order_id": "o", "quantity": ' + b"9" * 5_000 + b"}",
    b'{"order_id": "\\ud800", "quantity": 3}', b'{"order_id": "\\u0000", "quantity": 3}', b'{"a":' * 33 + b"1" + b"}" * 33,
], ids=lambda content: repr(content[:30]))  # fmt: skip
@on_loop
async def test_a_body_that_is_no_readable_json_is_400(house: House, content: bytes) -> None:
    is_problem(await house.place(content=content), 400, "EP808")
    assert house.received == []


@pytest.mark.parametrize("kind", [
    {}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Type": "application/pickle"},
    {"Content-Type": "multipart/form-data; boundary=x"}, {"Content-Type": ""}, {"Content-Type": "application/json-patch+json"},
    {"Content-Type": "application/json", "Content-Encoding": "gzip"},
], ids=str)  # fmt: skip
@on_loop
async def test_anything_but_plain_json_is_415(house: House, kind: dict[str, str]) -> None:
    is_problem(await house.http.post("/orders", content=b'{"order_id": "o-1", "quantity": 3}', headers=kind), 415, "EP807")
    assert house.received == []


@pytest.mark.parametrize("kind", ["application/json", "APPLICATION/JSON", "application/json; charset=utf-8", " application/json "])
@on_loop
async def test_json_is_json_however_its_type_is_written(house: House, kind: str) -> None:
    response = await house.http.post("/orders", content=b'{"order_id": "o-1", "quantity": 3}', headers={"Content-Type": kind})

    assert response.status_code == 201


@on_loop_with(body_bytes_max=1_024)
async def test_a_body_over_the_limit_is_413_at_the_chunk_that_crosses_it(house: House) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 500
            yield b" " * 500

    response = await house.http.post("/orders", content=endless(), headers={"Content-Type": "application/json"})

    is_problem(response, 413, "EP806")
    assert sent == 1_500


@on_loop_with(body_bytes_max=1_024)
async def test_a_body_of_exactly_the_limit_is_read(house: House) -> None:
    content = b'{"order_id": "o-1", "quantity": 3}'

    assert (await house.place(content=content.ljust(1_024))).status_code == 201
    is_problem(await house.place(content=content.ljust(1_025)), 413, "EP806")


@pytest.mark.parametrize("trace", ["", "x", "00-" + "0" * 32 + "-b7ad6b7169203331-01", TRACE + "x", TRACE.upper(), "x" * 60_000, "a\tb"])
@on_loop
async def test_a_traceparent_that_is_none_does_not_travel(house: House, trace: str) -> None:
    response = await house.place(traceparent=trace)

    assert response.status_code == 201
    assert house.received[0].traceparent is None
    assert "traceparent" not in response.headers


@pytest.mark.parametrize(("method", "path", "allow"), [
    ("GET", "/orders", "POST"), ("DELETE", "/orders", "POST"), ("POST", "/orders/o-1", "DELETE, GET"), ("HEAD", "/orders", "POST"),
    ("OPTIONS", "/orders", "POST"), ("TRACE", "/orders", "POST"), ("FROB", "/orders", "POST"), ("POST", "/health/live", "GET"),
])  # fmt: skip
@on_loop
async def test_another_method_is_405_with_those_that_there_are(house: House, method: str, path: str, allow: str) -> None:
    response = await house.http.request(method, path, headers={"X-HTTP-Method-Override": "POST"})

    assert response.status_code == 405
    assert response.headers["allow"] == allow
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/", "/nowhere", "/orders/o-1/lines", "/ORDERS", "/orders%2Fo-1", "/order", "/orders;x", "/%6frders/"])
@on_loop
async def test_an_unknown_path_is_404(house: House, path: str) -> None:
    is_problem(await house.http.post(path, json={}), 404, "EP803")


# --- what is away ---------------------------------------------------------------------------------


@on_loop
async def test_a_service_without_a_living_instance_is_503_and_its_route_stays(house: House) -> None:
    await house.vanish()

    response = await house.place()

    is_problem(response, 503, "EP811")
    assert response.headers["retry-after"] == "1"
    assert house.received == []
    assert "/orders" in (await house.http.get("/openapi.json")).json()["paths"]


@on_loop
async def test_a_command_that_no_queue_takes_is_503(house: House) -> None:
    async def returned(batch: list[Outgoing], **_: object) -> list[Outcome]:
        return [Nacked("the queue is full")]

    house.near.publish = returned  # type: ignore[assignment,method-assign]

    response = await house.place()

    is_problem(response, 503, "EP812")
    assert response.headers["retry-after"] == "1"


@on_loop
async def test_a_broker_that_is_away_is_503_also_for_operations(house: House) -> None:
    house.answer = silent
    location = (await house.place(Prefer="wait=0")).headers["location"]

    async def away(*_: object, **__: object) -> list[Outcome]:
        raise BrokerUnavailable("not connected")

    house.near.publish = away  # type: ignore[method-assign]

    for response in (await house.place(), await house.http.get("/orders/o-1"), await house.http.get(location)):
        is_problem(response, 503, "EP812")
        assert response.headers["retry-after"] == "1"


@on_loop
async def test_a_bug_is_500_and_tells_nothing(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.app.state.forwarder.signer = None
    house.app.state.forwarder.operations = None

    response = await house.place()

    is_problem(response, 500, "EP800")
    assert "NoneType" not in response.text
    assert "NoneType" in caplog.text


@on_loop
async def test_after_publish_stands_where_the_command_is_confirmed_and_no_answer_is_there(house: House) -> None:
    house.answer = silent
    failpoints.arm("gateway.after_publish=raise")
    try:
        is_problem(await house.place(), 500, "EP999")
    finally:
        failpoints.arm("")

    assert len(house.received) == 1


@pytest.mark.parametrize("point", ["gateway.before_publish", "gateway.after_publish", "gateway.before_response"])
@on_loop
async def test_the_failpoints_stand_where_they_say(house: House, point: str) -> None:
    failpoints.arm(f"{point}=raise")
    try:
        await house.place()
    finally:
        failpoints.arm("")

    assert len(house.received) == (0 if point == "gateway.before_publish" else 1)


@on_loop
async def test_what_is_logged_on_the_way_carries_the_correlation_id(house: House) -> None:
    publish, bound = house.near.publish, []

    async def noted(*args: Any, **kwargs: Any) -> list[Outcome]:
        bound.append(get_contextvars().get("correlation_id"))
        return await publish(*args, **kwargs)

    house.near.publish = noted  # type: ignore[method-assign]

    responses = [await house.place(), await house.http.get("/orders/o-1")]

    assert bound == [response.headers["x-correlation-id"] for response in responses]
    assert "correlation_id" not in get_contextvars()


@on_loop
async def test_a_client_that_hangs_up_before_its_body_is_read_costs_nothing(house: House) -> None:
    sent: list[object] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: object) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/orders", "raw_path": b"/orders", "query_string": b"", "headers": []}
    await house.app(scope, receive, send)

    assert sent == []
    assert house.received == []


@on_loop
async def test_fifty_requests_at_once_each_get_their_own_answer(house: House) -> None:
    house.answer = lambda envelope: (DONE, envelope.body)

    async def one(number: int) -> httpx.Response:
        return await house.place({"order_id": f"o-{number}", "quantity": 1})

    responses = await asyncio.gather(*(one(number) for number in range(50)))

    assert [response.json()["order_id"] for response in responses] == [f"o-{number}" for number in range(50)]
