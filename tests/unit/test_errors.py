"""Errors: each with a code of its own for ever, a text, and the next move."""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

import eventplat
from eventplat.cli.explain import command as explain
from eventplat.errors import BrokerUnavailable, EventplatError, Failed, NoOwner, Rejected, TimedOut

CODES = {
    "EP000": "EventplatError",
    "EP100": "MessageError", "EP101": "BadMessageClass", "EP102": "Malformed", "EP103": "TooLarge", "EP104": "NoOwner",
    "EP200": "BrokerError", "EP201": "BrokerUnavailable", "EP202": "Unroutable", "EP203": "TopologyMissing",
    "EP204": "TopologyMismatch", "EP205": "EmbeddedBrokerBusy",
    "EP300": "StorageError", "EP301": "DatabaseUnavailable", "EP302": "CommitUnknown", "EP303": "SchemaOutdated",
    "EP304": "TransactionAborted", "EP305": "NotYourTransaction",
    "EP400": "CoordinationError", "EP401": "StaleLease",
    "EP500": "TransactionError", "EP501": "CallInsideTransaction", "EP502": "OtherBody",
    "EP600": "SagaError", "EP601": "Diverged", "EP602": "ForeignAwait", "EP603": "TooManySteps",
    "EP700": "Rejected", "EP701": "TimedOut", "EP702": "Failed",
    "EP710": "ServiceError", "EP711": "BadHandler", "EP712": "NoSuchService",
    "EP800": "GatewayError", "EP801": "BadToken", "EP802": "Forbidden", "EP803": "NoRoute", "EP804": "WrongMethod",
    "EP805": "StillRunning", "EP806": "BodyTooLarge", "EP807": "NotJson", "EP808": "UnreadableJson", "EP809": "InvalidRequest",
    "EP810": "BadIdempotencyKey", "EP811": "ServiceAway", "EP812": "BrokerAway", "EP813": "NoAnswer", "EP814": "UnknownOperation",
    "EP900": "SettingsError",
}  # fmt: skip
"""Published: a code never changes its meaning, and none is given twice."""


def house() -> list[type[EventplatError]]:
    """Every error class of the platform that says a code of its own."""
    for module in pkgutil.walk_packages(eventplat.__path__, "eventplat."):
        if ".migrations" not in module.name:
            importlib.import_module(module.name)
    return [kind for kind in tree(EventplatError) if "code" in vars(kind) and kind.__module__.startswith("eventplat.")]


def tree(kind: type[EventplatError]) -> Iterator[type[EventplatError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from tree(child)


HOUSE = house()


def test_the_published_codes_stand() -> None:
    there = {kind.code: kind.__name__ for kind in HOUSE}

    assert {code: there.get(code) for code in CODES} == CODES


def test_no_code_is_given_twice() -> None:
    assert [code for code, count in Counter(kind.code for kind in HOUSE).items() if count > 1] == []


def test_an_error_without_a_code_of_its_own_is_a_case_of_one_that_has() -> None:
    for kind in tree(EventplatError):
        assert any("code" in vars(parent) for parent in kind.__mro__[:-2] if parent is not EventplatError) or kind is EventplatError


@pytest.mark.parametrize("kind", HOUSE, ids=lambda kind: kind.code)
def test_an_error_says_what_it_is_and_the_next_move(kind: type[EventplatError]) -> None:
    assert kind.code[:2] == "EP"
    assert kind.code[2:].isdigit()
    assert len(kind.code) == 5
    assert vars(kind).get("__doc__"), "what happened"
    assert kind.next_move
    assert not kind.next_move.endswith((".", " "))
    assert kind.next_move[0].isupper()


@pytest.mark.parametrize("kind", HOUSE, ids=lambda kind: kind.code)
def test_explain_knows_it(kind: type[EventplatError]) -> None:
    said = CliRunner().invoke(explain, [kind.code.lower()])

    assert said.exit_code == 0
    assert said.output.startswith(f"{kind.code}  {kind.__name__}\n")
    assert kind.next_move in said.output


def test_an_error_reads_as_what_happened_then_the_next_move_then_its_code() -> None:
    assert str(BrokerUnavailable("lost")) == (
        "lost. See that the broker runs, and that EVENTPLAT_BROKER_URL names it [EP201]"
    )
    assert str(NoOwner("Order has no owner")).startswith("Order has no owner. Name it with its owner: ")


def test_a_rejection_keeps_its_reason_status_and_facts() -> None:
    said = Rejected("too_many", status=422, limit=100)

    assert (said.reason, said.status, said.facts) == ("too_many", 422, {"limit": 100})
    assert str(said) == "too_many {'limit': 100}"
    assert (str(Rejected("no")), Rejected("no").status) == ("no", 409)


def test_no_answer_and_no_attempts_left_are_no_rejection() -> None:
    assert not issubclass(TimedOut, Rejected)
    assert not issubclass(Failed, Rejected)


def test_the_rooms_are_told_by_the_hundreds() -> None:
    documented = importlib.import_module("eventplat.errors").__doc__ or ""

    assert {f"EP{kind.code[2]}" for kind in HOUSE} - {"EP0"} <= set(documented.replace(",", " ").replace(":", " ").split())
