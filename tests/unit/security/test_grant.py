"""Grants: signed once, verified anywhere, for ever, and never by another key."""

from __future__ import annotations

import time

import jwt
import pytest

from eventplat.errors import BadToken
from eventplat.messages.codec import HEADER_BYTES_MAX
from eventplat.security import grant as grants
from eventplat.security.grant import GrantSigner, GrantVerifier
from eventplat.security.keys import ensure_keys, new_grant_key
from eventplat.security.principal import Principal
from eventplat.settings import load

PRIVATE = new_grant_key()
PUBLIC = ensure_keys(load(profile="production", broker_url="amqp://b/", database_url="postgresql://d/", grant_key=PRIVATE)).grant_public_pem
ANN = Principal("ann", frozenset({"orders:write", "orders:read"}))
ID = "00000000-0000-8000-8000-000000000000"


def verifier() -> GrantVerifier:
    assert PUBLIC is not None
    return GrantVerifier(PUBLIC)


def test_a_grant_says_who_asked() -> None:
    assert verifier().verify(GrantSigner(PRIVATE).sign(ANN, ID, int(time.time()))) == ANN


def test_a_grant_does_not_expire_on_the_way() -> None:
    assert verifier().verify(GrantSigner(PRIVATE).sign(ANN, ID, 1)) == ANN


def test_a_grant_from_a_clock_that_is_ahead_is_good() -> None:
    assert verifier().verify(GrantSigner(PRIVATE).sign(ANN, ID, int(time.time()) + 3_600)) == ANN


def test_a_grant_signed_with_another_key_is_refused() -> None:
    with pytest.raises(BadToken):
        verifier().verify(GrantSigner(new_grant_key()).sign(ANN, ID, 1))


@pytest.mark.parametrize("missing", ["sub", "op", "iat"])
def test_a_callers_token_under_the_same_key_is_no_grant(missing: str) -> None:
    claims = {"sub": "ann", "scopes": ["*"], "op": ID, "iat": 1}
    del claims[missing]

    with pytest.raises(BadToken):
        verifier().verify(jwt.encode(claims, PRIVATE, "EdDSA"))


def test_a_grant_is_good_for_the_operation_that_it_names_and_for_what_comes_of_it() -> None:
    known, said = verifier(), GrantSigner(PRIVATE).sign(ANN, ID, 1)

    assert known.verify(said, operation=ID) == known.verify(said) == ANN
    with pytest.raises(BadToken, match="another operation"):
        known.verify(said, operation=ID.replace("0", "1"))


def test_a_changed_grant_is_refused_also_after_the_true_one_was_verified() -> None:
    known, true = verifier(), GrantSigner(PRIVATE).sign(ANN, ID, 1)
    known.verify(true)
    head, claims, signature = true.split(".")
    other = jwt.utils.base64url_encode(jwt.utils.base64url_decode(claims).replace(b"ann", b"bob")).decode()

    with pytest.raises(BadToken):
        known.verify(f"{head}.{other}.{signature}")


def test_a_grant_is_verified_once_per_value(monkeypatch: pytest.MonkeyPatch) -> None:
    known, said = verifier(), GrantSigner(PRIVATE).sign(ANN, ID, 1)
    first = known.verify(said)
    monkeypatch.setattr(jwt, "decode", lambda *_, **__: pytest.fail("verified a second time"))

    assert known.verify(said) is first


def test_the_cache_is_bounded_and_keeps_what_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grants, "CACHED_MAX", 2)
    known, signer = verifier(), GrantSigner(PRIVATE)
    first, second, third = (signer.sign(ANN, ID, second) for second in (1, 2, 3))
    principals = [known.verify(said) for said in (first, second, first, third)]

    assert known.verify(first) is principals[0]
    assert known.verify(second) is not principals[1]


def test_a_grant_too_long_for_a_messages_header_is_not_signed() -> None:
    many = Principal("ann", frozenset(f"scope-number-{number:04}" for number in range(500)))

    with pytest.raises(BadToken, match="500 scopes"):
        GrantSigner(PRIVATE).sign(many, ID, 1)
    few = Principal("ann", frozenset(f"scope-number-{number:04}" for number in range(250)))
    assert len(GrantSigner(PRIVATE).sign(few, ID, 1)) <= HEADER_BYTES_MAX
