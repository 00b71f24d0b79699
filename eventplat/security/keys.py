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

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

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
        SettingsError: A production process without the public half that verifies grants, a key that is none, or halves
            that do not belong together.
    """
    operation = settings.operation_key.get_secret_value().encode() if settings.operation_key else None
    private = settings.grant_key.get_secret_value() if settings.grant_key else None
    public = _public(settings.grant_public_key, private)
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
            out.flush()
            os.fsync(out.fileno())
        try:
            os.link(draft, path)  # fails where another process was first: its keys are everybody's
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    try:
        found = json.loads(path.read_text())
        return {name: str(found[name]) for name in ("operation_key", "grant_key")}
    except (ValueError, KeyError, TypeError):
        raise SettingsError(f"{path} holds no keys. Delete it, and new ones are made: open operation ids are lost") from None


def _public(public_pem: str | None, private_pem: str | None) -> str | None:
    derived = _public_of(private_pem) if private_pem else None
    if public_pem is None:
        return derived
    try:
        key = load_pem_public_key(public_pem.encode())
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise SettingsError("EVENTPLAT_GRANT_PUBLIC_KEY is no Ed25519 public key in PEM")
    public = _text(key)
    if derived not in (None, public):
        raise SettingsError("EVENTPLAT_GRANT_PUBLIC_KEY is not the public half of EVENTPLAT_GRANT_KEY")
    return public


def _public_of(private_pem: str) -> str:
    try:
        key = load_pem_private_key(private_pem.encode(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError("EVENTPLAT_GRANT_KEY is no Ed25519 private key in PEM, without a password")
    return _text(key.public_key())


def _text(key: Ed25519PublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
