"""Logs: one line a record, readable by its reader, without secrets and without forged lines."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from eventplat.messages.envelope import Envelope
from eventplat.observability.logs import HIDDEN, VALUE_CHARS_MAX, configure, logged_as
from eventplat.settings import load


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield
    root.handlers[:], level = before
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.parametrize("value", [
    "a\nERROR forged", "\x1b[31mred", "a\r\nb", "${jndi:ldap://x}", "\x00", "\u2028forged", "x" * 1_000_000, "\u202etxt", '{"a": 1}\n',
])  # fmt: skip
def test_whatever_is_logged_is_one_line_of_json(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure(load(log_format="json"))

    logging.getLogger("t").warning("got %s", value)
    structlog.get_logger("t").warning("got", value=value)

    first, second = lines(capsys)
    assert first["level"] == second["level"] == "warning"
    assert len(first["event"]) <= VALUE_CHARS_MAX * 6
    assert len(second["value"]) <= VALUE_CHARS_MAX * 6
    assert first["event"].isprintable()
    assert second["value"].isprintable()


def test_text_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure(load(log_format="text"))

    logging.getLogger("t").warning("got %s", "a\nERROR forged\x1b[31m")

    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "\x1b" not in said


@pytest.mark.parametrize("secret", ["hunter2hunter2", "a%40b:c", "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl"])
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_secrets_are_never_logged(secret: str, log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure(load(log_format=log_format))
    log, old = structlog.get_logger("t"), logging.getLogger("t")

    old.warning("cannot reach amqp://user:%s@host:5672/", secret)
    old.warning("sent Authorization: Bearer %s", secret.replace("%40b:", "xxxxxxxx"))
    log.warning("x", password=secret, database_password=secret, token=secret, grant_key=secret, authorization=secret, client_secret=secret)
    old.error("failed", exc_info=ConnectionError(f"postgresql://shop:{secret}@db/shop refused"))

    said = capsys.readouterr().err
    assert secret not in said
    assert secret.replace("%40b:", "xxxxxxxx") not in said
    assert "host:5672" in said
    assert "@db/shop refused" in said


def test_what_is_no_secret_stays(capsys: pytest.CaptureFixture[str]) -> None:
    configure(load(log_format="json"))

    structlog.get_logger("t").warning("at http://host:80/a?b=c@d", key="o-1", monkey="x", tokens=3, keyboard="y")

    record = lines(capsys)[0]
    assert record["event"] == "at http://host:80/a?b=c@d"
    assert (record["key"], record["monkey"], record["tokens"], record["keyboard"]) == ("o-1", "x", 3, "y")


def test_what_is_bound_stands_in_every_record(capsys: pytest.CaptureFixture[str]) -> None:
    configure(load(log_format="json"))

    with structlog.contextvars.bound_contextvars(correlation_id="c-1"):
        logging.getLogger("t").warning("inside")
    logging.getLogger("t").warning("outside")

    inside, outside = lines(capsys)
    assert inside["correlation_id"] == "c-1"
    assert "correlation_id" not in outside


def test_what_is_logged_while_a_message_is_handled_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    configure(load(log_format="json"))
    envelope = Envelope(id="m-1", type="t", body=b"", correlation_id="c-1")

    with logged_as(envelope, "shop.handler"), structlog.contextvars.bound_contextvars(handler="mine"):
        logging.getLogger("t").warning("inside")
        structlog.get_logger("t").warning("inside", correlation_id="c-2")
    logging.getLogger("t").warning("outside")

    first, second, outside = lines(capsys)
    assert (first["message_id"], first["correlation_id"], first["handler"]) == ("m-1", "c-1", "mine")
    assert (second["message_id"], second["correlation_id"]) == ("m-1", "c-2")
    assert "message_id" not in outside


def test_the_level_is_the_settings_and_libraries_are_quieter(capsys: pytest.CaptureFixture[str]) -> None:
    configure(load(log_format="json", log_level="info"))

    logging.getLogger("t").debug("no")
    logging.getLogger("t").info("yes")
    logging.getLogger("pika.adapters").info("no")
    logging.getLogger("uvicorn.error").error("yes")

    assert [record["event"] for record in lines(capsys)] == ["yes", "yes"]


def test_an_exception_is_a_part_of_its_record(capsys: pytest.CaptureFixture[str]) -> None:
    configure(load(log_format="json"))

    logging.getLogger("t").error("failed", exc_info=ValueError("boom"))

    assert "ValueError: boom" in lines(capsys)[0]["exception"]


def test_what_a_record_carries_is_shown_and_not_only_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    configure(load(log_format="json"))

    logging.getLogger("t").warning("the broker cannot be reached", extra={"reason": "refused", "password": "hunter2"})

    record = lines(capsys)[0]
    assert (record["reason"], record["password"]) == ("refused", HIDDEN)


def test_a_refused_connection_is_not_told_by_the_library_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure(load(log_format="json"))

    logging.getLogger("pika.adapters.utils.connection_workflow").error("AMQP connection workflow failed")

    assert lines(capsys) == []
