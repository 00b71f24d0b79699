"""The grant: the gateway's signed statement of who asked, travelling unchanged with the work.

Signed once (EdDSA), verified once per value in each process and then cached. It does not expire on the way: a
retry next week still acts for the same person. It names one operation, and says nothing about the hop: who
sent a message is the broker's validated user.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any

import jwt

from eventplat.errors import BadToken
from eventplat.messages.codec import HEADER_BYTES_MAX
from eventplat.security.principal import Principal

logger = logging.getLogger(__name__)

ALGORITHM = "EdDSA"
CACHED_MAX = 4_096
_EDDSA = jwt.get_algorithm_by_name(ALGORITHM)


class GrantSigner:
    """Signs grants with the gateway's private key (PEM)."""

    def __init__(self, private_pem: str, *, kid: str = "1") -> None:
        self._key, self._kid = _EDDSA.prepare_key(private_pem), kid  # once: reading PEM takes longer than signing

    def sign(self, principal: Principal, operation: str, now_s: int) -> str:
        """The grant of `principal` for `operation` (a command id).

        Raises:
            BadToken: It would be longer than a message's header may be: the services would refuse the message.
        """
        claims = {"sub": principal.subject, "scopes": sorted(principal.scopes), "op": operation, "iat": now_s}
        grant = jwt.encode(claims, self._key, algorithm=ALGORITHM, headers={"kid": self._kid})
        if len(grant) > HEADER_BYTES_MAX:
            raise BadToken(f"the token carries {len(principal.scopes)} scopes, too many to be passed on")
        return grant


class GrantVerifier:
    """Verifies grants with the gateway's public key (PEM)."""

    def __init__(self, public_pem: str) -> None:
        self._key = _EDDSA.prepare_key(public_pem)
        self._known: OrderedDict[str, tuple[Principal, str]] = OrderedDict()   # and the operation

    def verify(self, grant: str, *, operation: str | None = None) -> Principal:
        """The principal that `grant` states.

        Args:
            operation: The message id that it must have been given for; None: it travels with work that came of it.

        Raises:
            BadToken: It was not signed by the gateway, or not for this operation.
        """
        principal, given_for = self._read(grant)
        if operation not in (None, given_for):
            logger.warning("a grant was refused: it was given for operation %s and came with %s", given_for, operation)
            raise BadToken("the grant was given for another operation")
        return principal

    def _read(self, grant: str) -> tuple[Principal, str]:
        known = self._known.get(grant)
        if known is not None:
            self._known.move_to_end(grant)
            return known
        try:
            claims: dict[str, Any] = jwt.decode(
                grant, self._key, algorithms=[ALGORITHM], options={"require": ["sub", "op", "iat"], "verify_iat": False}
            )
        except jwt.PyJWTError as error:
            logger.warning("a grant was refused: %s", type(error).__name__)
            raise BadToken("the grant was not accepted") from None
        principal = Principal(str(claims["sub"]), frozenset(map(str, claims.get("scopes", ()))))
        known = self._known[grant] = (principal, str(claims["op"]))
        if len(self._known) > CACHED_MAX:
            self._known.popitem(last=False)
        return known
