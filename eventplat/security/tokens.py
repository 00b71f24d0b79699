"""Tokens: a caller's JWT, verified at the gateway.

Algorithms come from the configuration, never from the token's header; a shared secret and public keys never
serve at the same time, so that no public key can be taken for a secret. A key that does not fit its algorithms stops
the process at start. What is wrong with a token is logged here and not told: the caller learns that it was not accepted.

Source    RFC 8725 (JWT best current practices).
"""

from __future__ import annotations

import logging
from typing import Any

import jwt

from eventplat.errors import BadToken, SettingsError
from eventplat.security.principal import Principal
from eventplat.settings import Settings

logger = logging.getLogger(__name__)

TOKEN_BYTES_MAX = 8_192
SUBJECT_CHARS_MAX = 255      # it becomes a part of operation ids, which stand in URLs
LEEWAY_S = 10


class TokenVerifier:
    """Verifies bearer tokens against the configured key.

    Raises:
        SettingsError: No algorithm, `none`, shared-secret and public-key algorithms together, or a key that is not of their kind.
    """

    def __init__(self, settings: Settings) -> None:
        algorithms = settings.jwt_algorithms
        symmetric = [name for name in algorithms if name.startswith("HS")]
        if settings.jwt_key is None or not algorithms or "none" in algorithms or (symmetric and len(symmetric) != len(algorithms)):
            raise SettingsError("EVENTPLAT_JWT_KEY needs EVENTPLAT_JWT_ALGORITHMS of one family: either HS… or public-key ones")
        self._key, self._algorithms = settings.jwt_key.get_secret_value(), list(algorithms)
        self._issuer, self._audience = settings.jwt_issuer, settings.jwt_audience
        for name in algorithms:
            _check_key(name, self._key)

    def verify(self, bearer: str) -> Principal:
        """The principal that `bearer` proves.

        Raises:
            BadToken: It proves nothing; why stands in the log.
        """
        if len(bearer) > TOKEN_BYTES_MAX:
            raise BadToken("the token was not accepted")
        required = ["exp", "sub", "aud", *(["iss"] if self._issuer else [])]
        try:
            claims: dict[str, Any] = jwt.decode(
                bearer, self._key, algorithms=self._algorithms, audience=self._audience, issuer=self._issuer, leeway=LEEWAY_S,
                options={"require": required, "enforce_minimum_key_length": True},
            )  # fmt: skip
        except jwt.PyJWTError as error:
            logger.info("a token was refused: %s", type(error).__name__)
            raise BadToken("the token was not accepted") from None
        subject: str = claims["sub"]
        if not subject.isprintable() or not 0 < len(subject) <= SUBJECT_CHARS_MAX:
            logger.info("a token was refused: its subject has %d characters, or unprintable ones", len(subject))
            raise BadToken("the token was not accepted")
        return Principal(subject, _scopes(claims))


def _check_key(algorithm: str, key: str) -> None:
    try:
        known = jwt.get_algorithm_by_name(algorithm)
        weakness = known.check_key_length(known.prepare_key(key))
    except (NotImplementedError, jwt.InvalidKeyError, ValueError, TypeError):
        raise SettingsError(f"EVENTPLAT_JWT_KEY is no key for {algorithm}, which EVENTPLAT_JWT_ALGORITHMS names") from None
    if weakness is not None:
        raise SettingsError(f"EVENTPLAT_JWT_KEY is too short for {algorithm}")


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    found = claims.get("scope", claims.get("scopes", ()))
    if isinstance(found, str):
        return frozenset(found.split())
    return frozenset(scope for scope in found if isinstance(scope, str)) if isinstance(found, list) else frozenset()
