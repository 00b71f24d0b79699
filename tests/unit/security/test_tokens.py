"""Tokens: what is accepted, and everything that must not be."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pydantic import SecretStr

from eventplat.errors import BadToken, SettingsError
from eventplat.security.principal import Principal
from eventplat.security.tokens import SUBJECT_CHARS_MAX, TOKEN_BYTES_MAX, TokenVerifier
from eventplat.settings import load

RSA = generate_private_key(public_exponent=65_537, key_size=2_048)
PRIVATE = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
PUBLIC = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
SECRET = "a-shared-secret-of-more-than-32-bytes"
ED = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

CLAIMS: dict[str, Any] = {"sub": "ann", "aud": "eventplat", "scope": "orders:read orders:write"}


def verifier(**changes: Any) -> TokenVerifier:
    settings = {"jwt_key": SecretStr(PUBLIC), "jwt_algorithms": ("RS256",), **changes}
    return TokenVerifier(load(**settings))


def token(key: str = PRIVATE, algorithm: str = "RS256", headers: dict[str, Any] | None = None, **changes: Any) -> str:
    claims = {**CLAIMS, "exp": int(time.time()) + 60, **changes}
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, key, algorithm, headers)


def signed_by_hand(header: dict[str, Any], claims: dict[str, Any], secret: bytes = SECRET.encode()) -> str:
    """What no library would sign."""
    said = f"{_part(json.dumps(header).encode())}.{_part(json.dumps(claims).encode())}"
    return f"{said}.{_part(hmac.new(secret, said.encode(), hashlib.sha256).digest())}"


def _part(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")


def _spki(encoding: Encoding, form: PublicFormat) -> bytes:
    return RSA.public_key().public_bytes(encoding, form)


def test_a_valid_token_is_its_subject_with_its_scopes() -> None:
    assert verifier().verify(token()) == Principal("ann", frozenset({"orders:read", "orders:write"}))


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": None, "scopes": ["a", "b", "a"]}, {"a", "b"}),
        ({"scope": None}, set()),
        ({"scope": ""}, set()),
        ({"scope": 5}, set()),
        ({"scope": {"a": 1}}, set()),
        ({"scope": None, "scopes": [["a"], 5, "b"]}, {"b"}),
    ],
)
def test_scopes_are_words_or_a_list_and_nothing_else_is_a_scope(claims: dict[str, Any], scopes: set[str]) -> None:
    assert verifier().verify(token(**claims)).scopes == scopes


def test_clocks_may_differ_by_ten_seconds() -> None:
    assert verifier().verify(token(exp=int(time.time()) - 5)).subject == "ann"


WRONG_CLAIMS: list[dict[str, Any]] = [
    {"exp": 1_700_000_000}, {"exp": None}, {"exp": "soon"}, {"exp": True, "iat": None}, {"exp": [1]}, {"exp": -1},
    {"nbf": 4_000_000_000}, {"iat": 4_000_000_000},
    {"aud": None}, {"aud": "other"}, {"aud": ["other"]}, {"aud": []}, {"aud": "event"}, {"aud": "eventplat2"}, {"aud": [1]},
    {"sub": None}, {"sub": ""}, {"sub": "a\nb"}, {"sub": "a\x00b"}, {"sub": "x" * (SUBJECT_CHARS_MAX + 1)},
]  # fmt: skip


@pytest.mark.parametrize("claims", WRONG_CLAIMS, ids=str)
def test_a_token_with_wrong_claims_is_refused(claims: dict[str, Any]) -> None:
    with pytest.raises(BadToken):
        verifier().verify(token(**claims))


@pytest.mark.parametrize("exp", [float("inf"), float("nan"), {}, []], ids=str)
def test_a_token_whose_end_is_no_time_is_refused(exp: Any) -> None:
    shared = verifier(jwt_key=SecretStr(SECRET), jwt_algorithms=("HS256",))

    with pytest.raises(BadToken):
        shared.verify(signed_by_hand({"alg": "HS256"}, {**CLAIMS, "exp": exp}))


@pytest.mark.parametrize("claims", [{"sub": 5}, {"sub": "\ud800"}, {"sub": ["ann"]}, {"sub": {"a": 1}}], ids=str)
def test_a_subject_that_is_no_text_is_refused(claims: dict[str, Any]) -> None:
    shared = verifier(jwt_key=SecretStr(SECRET), jwt_algorithms=("HS256",))

    with pytest.raises(BadToken):
        shared.verify(signed_by_hand({"alg": "HS256"}, {**CLAIMS, "exp": int(time.time()) + 60, **claims}))


@pytest.mark.parametrize("issuer", [None, "https://idp.example", "https://idp.example/x", ["https://idp.example/"]], ids=str)
def test_a_configured_issuer_is_required_exactly(issuer: Any) -> None:
    strict = verifier(jwt_key=SecretStr(SECRET), jwt_algorithms=("HS256",), jwt_issuer="https://idp.example/")
    claims = {**CLAIMS, "exp": int(time.time()) + 60}

    assert strict.verify(signed_by_hand({"alg": "HS256"}, {**claims, "iss": "https://idp.example/"})).subject == "ann"
    with pytest.raises(BadToken):
        strict.verify(signed_by_hand({"alg": "HS256"}, claims if issuer is None else {**claims, "iss": issuer}))


@pytest.mark.parametrize("algorithm", ["none", "None", "nOnE", "NONE", "", "HS256", "HS512", "RS512", "PS256", "ES256", "EdDSA", "x"])
@pytest.mark.parametrize("signature", ["", "x", "AAAA"])
def test_the_header_does_not_choose_the_algorithm(algorithm: str, signature: str) -> None:
    claims = {**CLAIMS, "exp": int(time.time()) + 60}
    said = f"{_part(json.dumps({'alg': algorithm}).encode())}.{_part(json.dumps(claims).encode())}.{signature}"

    with pytest.raises(BadToken):
        verifier().verify(said)


@pytest.mark.parametrize("algorithm", ["RS512", "PS256"])
def test_an_algorithm_that_is_not_configured_is_refused_with_the_right_key_too(algorithm: str) -> None:
    with pytest.raises(BadToken):
        verifier().verify(token(algorithm=algorithm))


PUBLIC_SPELLINGS = {
    "pem": PUBLIC.encode(),
    "pem, stripped": PUBLIC.strip().encode(),
    "der": _spki(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    "pkcs1": _spki(Encoding.PEM, PublicFormat.PKCS1),
    "ssh": _spki(Encoding.OpenSSH, PublicFormat.OpenSSH),
    "jwk": json.dumps(jwt.algorithms.RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True)).encode(),
}


@pytest.mark.parametrize("spelling", PUBLIC_SPELLINGS)
def test_the_public_key_is_never_a_shared_secret(spelling: str) -> None:
    forged = signed_by_hand({"alg": "HS256"}, {**CLAIMS, "exp": int(time.time()) + 60}, PUBLIC_SPELLINGS[spelling])

    with pytest.raises(BadToken):
        verifier().verify(forged)


@pytest.mark.parametrize(
    "headers",
    [{"crit": ["x"], "x": 1}, {"kid": 1}, {"b64": False, "crit": ["b64"]}, {"jku": "http://127.0.0.1:9/"}, {"x5u": "http://127.0.0.1:9/"},
     {"jwk": {"kty": "oct", "k": "AAAA"}}, {"kid": "../../etc/passwd"}, {"kid": "x' OR 1=1"}],
    ids=str,
)  # fmt: skip
def test_a_header_that_points_to_another_key_is_ignored_and_fetches_nothing(
    headers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a token made the gateway connect to somewhere")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    forged = signed_by_hand({"alg": "HS256", **headers}, {**CLAIMS, "exp": int(time.time()) + 60})

    with pytest.raises(BadToken):
        verifier().verify(forged)


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "...", "....", "a.b.c", "é.é.é", "\x00", " ", "a" * (TOKEN_BYTES_MAX + 1), "a" * TOKEN_BYTES_MAX,
     *(f"{_part(head)}.e30.eA" for head in (b"{}", b"[]", b"null", b"1", b"\xff", b"[" * 3_000, b"9" * 5_000, b'{"alg":null}',
                                             b'{"alg":["RS256"]}', b'{"alg":{}}', b'{"alg":"RS256","x":' + b"9" * 5_000 + b"}"))],
)  # fmt: skip
def test_what_is_no_token_is_refused_and_breaks_nothing(text: str) -> None:
    with pytest.raises(BadToken):
        verifier().verify(text)


def test_what_is_wrong_with_a_token_is_not_told() -> None:
    told = set()
    for wrong in (token(exp=1), token(aud="other"), "nonsense", token(PRIVATE, sub=""), "a" * 9_000, token(ED, "EdDSA")):
        with pytest.raises(BadToken) as raised:
            verifier().verify(wrong)
        told.add(str(raised.value))

    assert len(told) == 1


CONFIGURATIONS: list[tuple[str, Callable[[], TokenVerifier]]] = [
    ("no key", lambda: verifier(jwt_key=None)),
    ("no algorithm", lambda: verifier(jwt_algorithms=())),
    ("none", lambda: verifier(jwt_algorithms=("none",))),
    ("two families", lambda: verifier(jwt_algorithms=("RS256", "HS256"))),
    ("a public key as a secret", lambda: verifier(jwt_algorithms=("HS256",))),
    ("a short secret", lambda: verifier(jwt_key=SecretStr("short"), jwt_algorithms=("HS256",))),
    ("a secret as a public key", lambda: verifier(jwt_key=SecretStr(SECRET))),
    ("another kind of key", lambda: verifier(jwt_key=SecretStr(ED))),
    ("an algorithm that nobody knows", lambda: verifier(jwt_algorithms=("RS257",))),
]


@pytest.mark.parametrize(("_", "configured"), CONFIGURATIONS, ids=[name for name, _ in CONFIGURATIONS])
def test_a_configuration_that_cannot_be_safe_stops_the_process(_: str, configured: Callable[[], TokenVerifier]) -> None:
    with pytest.raises(SettingsError, match="EVENTPLAT_JWT_KEY"):
        configured()
