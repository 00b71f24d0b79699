"""Settings: a wrong one stops the process by name, and a secret is never shown."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from eventplat import failpoints
from eventplat.errors import SettingsError
from eventplat.settings import load, without_password

SECRET = "hunter2"
PRODUCTION: dict[str, Any] = {"profile": "production", "broker_url": "amqp://broker/", "database_url": "postgresql://database/"}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("EVENTPLAT_")]:
        monkeypatch.delenv(name)


def said_of(**changes: object) -> str:
    """Everything that a user could see of the refusal, traceback included."""
    with pytest.raises(SettingsError) as raised:
        load(**changes)
    assert raised.value.__cause__ is None, "a cause holds what was given"
    return "".join(traceback.format_exception(raised.value))


def test_without_any_setting_everything_is_in_this_process() -> None:
    settings = load()

    assert (settings.profile, settings.is_embedded, settings.declares_at_start, settings.is_open) == ("embedded", True, True, True)
    assert settings.broker() == f"embedded://{Path('.eventplat/broker.db').resolve()}"
    assert settings.database("stock") == f"sqlite:///{Path('.eventplat/stock.db').resolve()}"


def test_a_variable_is_read_and_a_change_stands_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTPLAT_PREFETCH", "7")

    assert load().prefetch == 7
    assert load(prefetch=8).prefetch == 8


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EVENTPLAT_PROFILE", "prod"), ("EVENTPLAT_PREFIX", "Shop"), ("EVENTPLAT_PREFIX", "a.b"), ("EVENTPLAT_PREFIX", "a" * 33),
        ("EVENTPLAT_DATABASE_POOL_SIZE", "0"), ("EVENTPLAT_DATABASE_POOL_SIZE", "201"), ("EVENTPLAT_PREFETCH", "many"),
        ("EVENTPLAT_DRAIN_S", "0"), ("EVENTPLAT_PROCESS_TERM_S", "-1"), ("EVENTPLAT_HEARTBEAT_S", "nan"),
        ("EVENTPLAT_GATEWAY_PORT", "65536"), ("EVENTPLAT_BODY_BYTES_MAX", "1048577"), ("EVENTPLAT_LOG_LEVEL", "verbose"),
        ("EVENTPLAT_LOG_FORMAT", "xml"), ("EVENTPLAT_ALLOW_ANONYMOUS", "perhaps"),
        ("EVENTPLAT_DATABASE_URLS", "postgresql://"), ("EVENTPLAT_SERVICE_SCOPES", "{"), ("EVENTPLAT_JWT_ALGORITHMS", "EdDSA"),
    ],
)  # fmt: skip
def test_a_bad_value_names_its_variable(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError, match=rf"{name}\b") as raised:
        load()
    assert raised.value.code == "EP900"


def test_all_bad_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTPLAT_PREFETCH", "many")
    monkeypatch.setenv("EVENTPLAT_GATEWAY_PORT", "x")

    said = said_of()

    assert "EVENTPLAT_PREFETCH: " in said
    assert "EVENTPLAT_GATEWAY_PORT: " in said


def test_a_bad_part_of_a_variable_is_named_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTPLAT_SERVICE_SCOPES", '{"orders": 5}')

    assert "EVENTPLAT_SERVICE_SCOPES['orders']: " in said_of()


@pytest.mark.parametrize("value", [f"{SECRET}", f'{{"orders": "{SECRET}"', f'{{"orders": {{"{SECRET}": 1}}}}', f'["{SECRET}"]'])
def test_a_secret_that_cannot_be_read_is_not_shown(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTPLAT_DATABASE_URLS", value)

    said = said_of()

    assert "EVENTPLAT_DATABASE_URLS" in said
    assert SECRET not in said


@pytest.mark.parametrize("name", ["broker_url", "database_url", "operation_key", "grant_key", "jwt_key"])
def test_a_secret_is_shown_neither_by_the_settings_nor_by_a_refusal_of_others(name: str) -> None:
    settings = load(**{name: SECRET})

    assert SECRET not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert SECRET not in said_of(**{name: SECRET}, prefetch="many")
    assert SECRET not in said_of(**{name: [SECRET]})


@pytest.mark.parametrize("missing", ["broker_url", "database_url"])
def test_production_needs_a_broker_and_a_database(missing: str) -> None:
    said = said_of(**{**PRODUCTION, missing: None})

    assert "needs EVENTPLAT_BROKER_URL and EVENTPLAT_DATABASE_URL" in said


def test_production_takes_a_database_for_each_service() -> None:
    settings = load(**{**PRODUCTION, "database_url": None, "database_urls": {"stock": "postgresql://stock/"}})

    assert settings.database("stock") == "postgresql://stock/"
    assert not settings.declares_at_start


def test_production_refuses_to_start_with_a_failpoint() -> None:
    failpoints.arm("relay.claimed=pause")
    try:
        assert "EVENTPLAT_FAILPOINTS" in said_of(**PRODUCTION)
    finally:
        failpoints.arm("")


def test_an_instance_says_it_is_there_twice_within_its_term() -> None:
    load(heartbeat_s=3, process_term_s=6)

    assert "heartbeat_s must be at most half of process_term_s" in said_of(heartbeat_s=3.1, process_term_s=6)


@pytest.mark.parametrize(
    ("changes", "is_open"),
    [
        ({}, True), ({"gateway_host": "::1"}, True), ({"gateway_host": "0.0.0.0"}, False), ({"jwt_key": "k"}, False),
        ({"gateway_host": "0.0.0.0", "allow_anonymous": True}, True), ({"allow_anonymous": False}, False),
    ],
)  # fmt: skip
def test_callers_without_a_token_are_answered_on_loopback_only_unless_said(changes: dict[str, Any], is_open: bool) -> None:
    assert load(**changes).is_open is is_open


@pytest.mark.parametrize("folder", ["a b", "50%41", "a#b", "a?b", "größe"])
def test_the_embedded_broker_is_found_in_a_folder_of_any_name(folder: str, tmp_path: Path) -> None:
    url = load(data_dir=tmp_path / folder).broker()

    assert unquote(urlsplit(url).path) == str(tmp_path.resolve() / folder / "broker.db")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://shop:hunter2@db:5432/shop", "postgresql://***@db:5432/shop"),
        ("postgresql://shop@db/shop", "postgresql://***@db/shop"),
        ("postgresql://db:5432/shop", "postgresql://db:5432/shop"),
        ("postgresql://shop:hunter2@[::1]:5432/shop", "postgresql://***@[::1]:5432/shop"),
        ("postgresql://shop:hun/hunter2@db/shop", "postgresql://***@db/shop"),
        ("postgresql://shop:hun#hunter2@db/shop", "postgresql://***@db/shop"),
        ("postgresql://shop:hun?hunter2@db/shop", "postgresql://***@db/shop"),
        ("postgresql://shop:hun@hunter2@db/shop", "postgresql://***@db/shop"),
        ("postgresql://shop:hun\nhunter2@db/shop", "postgresql://***@db/shop"),
        ("postgresql://shop:hunter2@db:port/shop", "postgresql://***@db:port/shop"),
        ("postgresql://db/shop?password=hunter2&sslmode=require", "postgresql://db/shop?password=***&sslmode=require"),
        ("postgresql://db/shop?sslmode=require&sslpassword=hunter2", "postgresql://db/shop?sslmode=require&sslpassword=***"),
        ("amqp://shop:hunter2@one:5672,amqp://shop:hunter2@two:5672", "amqp://***@two:5672"),
        ("sqlite:////data/stock.db", "sqlite:////data/stock.db"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_its_password_however_it_is_written(url: str, shown: str) -> None:
    assert without_password(url) == shown
