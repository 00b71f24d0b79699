"""Settings: read from the environment once, frozen, checked before anything starts.

Every variable begins with `EVENTPLAT_`, as `EVENTPLAT_BROKER_URL`. Three profiles:

embedded    one process, SQLite and the journalled in-process broker: the default, nothing to install
dev         RabbitMQ and PostgreSQL; topology and tables are made at start
production  RabbitMQ and PostgreSQL; a process checks at start that `topology apply` and `db upgrade` have run

A secret is a `SecretStr`: it shows as asterisks in logs and errors.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote, unquote, urlsplit

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as UnreadableSetting

from eventplat import failpoints
from eventplat.errors import SettingsError

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Settings(BaseSettings):
    """All settings of one process. Seconds end in `_s`, bytes in `_bytes`."""

    model_config = SettingsConfigDict(env_prefix="EVENTPLAT_", frozen=True, extra="ignore")

    profile: Literal["embedded", "dev", "production"] = "embedded"
    data_dir: Path = Path(".eventplat")
    prefix: str = Field("eventplat", pattern=r"^[a-z][a-z0-9_-]{0,31}$")  # of every exchange and queue

    broker_url: SecretStr | None = None          # amqp://user:password@host:5672/vhost; default: embedded
    database_url: SecretStr | None = None        # postgresql://user:password@host:5432/name; default: SQLite files
    database_urls: dict[str, SecretStr] = {}     # of services that have a database of their own, by service
    database_pool_size: int = Field(10, ge=1, le=200)
    prefetch: int = Field(64, ge=1, le=1_000)    # unsettled deliveries per handler
    drain_s: float = Field(10.0, gt=0)           # how long a stopping process may finish what it began

    migrations_dir: Path | None = None           # of the services' own tables; a process looks in migrations/

    inbox_retention_s: float = Field(14 * 86_400.0, ge=86_400)      # how long a copy of a message is recognised
    event_log_retention_s: float = Field(30 * 86_400.0, ge=86_400)  # how long events, and the order of silent keys, are kept

    process_term_s: float = Field(6.0, gt=0)     # a process without a heartbeat for this long has died
    heartbeat_s: float = Field(2.0, gt=0)        # how often an instance says that it is there

    gateway_host: str = "127.0.0.1"
    gateway_port: int = Field(8000, ge=0, le=65_535)
    body_bytes_max: int = Field(262_144, ge=1_024, le=1_048_576)
    operation_key: SecretStr | None = None       # authenticates operation ids; the same for every gateway replica
    grant_key: SecretStr | None = None           # Ed25519 private key (PEM): the gateway signs grants with it
    grant_public_key: str | None = None          # its public half (PEM): services verify with it
    jwt_key: SecretStr | None = None             # public key (PEM) or shared secret that verifies callers' tokens
    jwt_algorithms: tuple[str, ...] = ("EdDSA",)
    jwt_issuer: str | None = None
    jwt_audience: str = "eventplat"
    service_scopes: dict[str, tuple[str, ...]] = {}  # what each service may ask of others, by `requires` scope
    broker_users: dict[str, str] = {}            # the RabbitMQ user of each service, and of "gateway"; empty: one user for all
    allow_anonymous: bool | None = None          # default: only when bound to loopback without a jwt_key

    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = Field(None, ge=0, le=65_535)  # serves /metrics and /health of this process; default: nowhere

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.profile == "production":
            if self.broker_url is None or (self.database_url is None and not self.database_urls):
                raise ValueError("profile=production needs EVENTPLAT_BROKER_URL and EVENTPLAT_DATABASE_URL")
            if failpoints.armed():
                raise ValueError("profile=production refuses to start with EVENTPLAT_FAILPOINTS set")
        if self.broker_users and self.broker_url is None:
            raise ValueError("broker_users needs EVENTPLAT_BROKER_URL: the embedded broker has no users")
        if self.heartbeat_s * 2 > self.process_term_s:
            raise ValueError("heartbeat_s must be at most half of process_term_s")
        return self

    @property
    def is_embedded(self) -> bool:
        """Whether broker and databases live inside this process."""
        return self.broker_url is None

    @property
    def declares_at_start(self) -> bool:
        """Whether a process makes missing queues and tables itself."""
        return self.profile != "production"

    @property
    def is_open(self) -> bool:
        """Whether the gateway answers callers without a token."""
        if self.allow_anonymous is not None:
            return self.allow_anonymous
        return self.jwt_key is None and self.gateway_host in LOOPBACK

    def broker(self) -> str:
        """The broker's URL; the embedded one journals to `broker.db` in the data directory."""
        if self.broker_url is None:
            return f"embedded://{quote(str((self.data_dir / 'broker.db').resolve()))}"
        return self.broker_url.get_secret_value()

    def broker_user(self) -> str | None:
        """The user that this process connects to RabbitMQ as; None in the embedded mode."""
        user = urlsplit(self.broker()).username
        return None if user is None else unquote(user)  # RabbitMQ refuses a message that claims another user than its connection's

    def database(self, service: str) -> str:
        """The URL of a service's database; by default a SQLite file of its own."""
        url = self.database_urls.get(service, self.database_url)
        if url is None:
            return f"sqlite:///{(self.data_dir / f'{service}.db').resolve()}"
        return url.get_secret_value()


def load(**changes: object) -> Settings:
    """Settings from the environment, with `changes` on top.

    Raises:
        SettingsError: With every setting that is wrong, and never its value when that is a secret.
    """
    try:
        return Settings(**changes)  # type: ignore[arg-type]
    except ValidationError as error:
        wrong = "; ".join(f"{_variable(e['loc'])}: {e['msg']}" for e in error.errors(include_url=False, include_input=False))
        raise SettingsError(wrong) from None
    except UnreadableSetting as error:  # its text names the field, its cause holds the value
        field = re.search(r'field "(\w+)"', str(error))
        raise SettingsError(f"{_variable((field[1],) if field else ())}: it is not JSON") from None


def without_password(url: str) -> str:
    """`url` as it may be shown: user and password replaced, also where it is no URL that can be read."""
    shown = re.sub(r"://.*@", "://***@", url, flags=re.DOTALL)  # up to the last @: an unquoted password may hold / ? # and @
    return re.sub(r"([?&][a-z_]*passw[a-z]*=)[^&]*", r"\1***", shown, flags=re.IGNORECASE)


def _variable(path: tuple[int | str, ...]) -> str:
    """The variable of a setting, as EVENTPLAT_DATABASE_URLS['orders']; EVENTPLAT_* where several disagree."""
    name, *inside = path or ("*",)
    return f"EVENTPLAT_{str(name).upper()}" + "".join(f"[{part!r}]" for part in inside)
