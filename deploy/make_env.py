"""Make the secrets of one deployment, and tokens for its callers.

    python deploy/make_env.py env            a whole .env: new passwords and keys
    python deploy/make_env.py token          a bearer token for the gateway that runs on that .env, valid for 12 hours
    python deploy/make_env.py token stock:read orders:read

The private key that signs tokens stays in .env: no container is given it, the gateway has its public half. An
organisation with an identity provider sets EVENTPLAT_JWT_KEY to the provider's key and needs no `token`.
"""

from __future__ import annotations

import secrets
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from dotenv import dotenv_values

ENV = Path(__file__).parents[1] / ".env"
SCOPES = tuple(f"{service}:{right}" for service in ("orders", "payments", "shipments", "stock") for right in ("read", "write"))
VALID = timedelta(hours=12)


def env() -> str:
    """The lines of a new .env. Keys are PEM over several lines, quoted as docker compose and sh both read it."""
    grant, tokens = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    values = {
        "RABBITMQ_PASSWORD": secrets.token_hex(24),
        "POSTGRES_PASSWORD": secrets.token_hex(24),
        "EVENTPLAT_OPERATION_KEY": secrets.token_urlsafe(32),
        "EVENTPLAT_GRANT_KEY": _private(grant),
        "EVENTPLAT_GRANT_PUBLIC_KEY": _public(grant),
        "EVENTPLAT_JWT_KEY": _public(tokens),
        "DEMO_TOKEN_KEY": _private(tokens),
    }
    return "".join(f"{name}='{value}'\n" for name, value in values.items())


def token(scopes: tuple[str, ...]) -> str:
    """A bearer token with `scopes`, signed by the .env beside docker-compose.yml."""
    key = dotenv_values(ENV).get("DEMO_TOKEN_KEY")
    if not key:
        raise SystemExit(f"{ENV} has no DEMO_TOKEN_KEY: run make compose-env")
    now = datetime.now(UTC)
    claims = {"sub": "demo", "aud": "eventplat", "iat": now, "exp": now + VALID, "scope": " ".join(scopes)}
    return jwt.encode(claims, key, algorithm="EdDSA")


def _private(key: Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode().strip()


def _public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode().strip()


if __name__ == "__main__":
    what, *rest = sys.argv[1:] or ["env"]
    sys.stdout.write(env() if what == "env" else token(tuple(rest) or SCOPES) + "\n")
