"""Keys: from the settings, else made once and kept in the data directory; production must be given them.

The file has mode 0600 and is written whole before it gets its name, so that processes which start together
agree on one set of keys.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_pem_private_key

from eventplat.errors import SettingsError
from eventplat.settings import Settings

FILE = "keys.json"


@dataclass(frozen=True, repr=False)
class Keys:
    """What signs and verifies; None where this process has no part in it."""

    operation_key: bytes | None
    grant_private_pem: str | None
    grant_public_pem: str | None


def ensure_keys(settings: Settings) -> Keys:
    """The keys of this process.

    Raises:
        SettingsError: A production process without the public half that verifies grants.
    """
    operation = settings.operation_key.get_secret_value().encode() if settings.operation_key else None
    private = settings.grant_key.get_secret_value() if settings.grant_key else None
    public = settings.grant_public_key or (_public_of(private) if private else None)
    if settings.profile == "production":
        if public is None:
            raise SettingsError("profile=production needs EVENTPLAT_GRANT_PUBLIC_KEY (and the gateway EVENTPLAT_GRANT_KEY)")
        return Keys(operation, private, public)
    if operation is None or public is None:
        made = _made(settings.data_dir / FILE)
        operation = operation or made["operation_key"].encode()
        if public is None:
            private, public = made["grant_key"], _public_of(made["grant_key"])
    return Keys(operation, private, public)


def new_grant_key() -> str:
    """A new Ed25519 private key, PEM."""
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _made(path: Path) -> dict[str, str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        draft = path.with_suffix(f".{os.getpid()}.{secrets.token_hex(4)}")
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "w") as out:
            json.dump({"operation_key": secrets.token_urlsafe(32), "grant_key": new_grant_key()}, out)
        try:
            os.link(draft, path)  # fails where another process was first: its keys are everybody's
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    found: dict[str, str] = json.loads(path.read_text())
    return found


def _public_of(private_pem: str) -> str:
    key = load_pem_private_key(private_pem.encode(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError("EVENTPLAT_GRANT_KEY is no Ed25519 private key")
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
