"""Attempts: an error is kept short, with where it was raised in the user's own code; what an operator did is kept beside it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from eventplat.errors import BrokerUnavailable, Malformed
from eventplat.messages.codec import parse
from eventplat.transactions.attempts import (
    EDITED,
    ERROR_CHARS_MAX,
    ERRORS_MAX,
    TRACEBACK_CHARS_MAX,
    Entry,
    action_record,
    error_record,
    newest_error,
    place_of,
    with_entry,
)


def raised(function: object, *arguments: object) -> BaseException:
    try:
        function(*arguments)  # type: ignore[operator]
    except Exception as error:
        return error
    raise AssertionError("it did not raise")


def handler() -> None:
    raise ValueError("no stock")


def test_an_error_is_kept_with_its_code_and_attempt_and_without_its_length() -> None:
    kept = error_record(BrokerUnavailable("x" * 10_000), 3, 7)

    assert (kept["type"], kept["code"], kept["attempt"], kept["at_us"]) == ("BrokerUnavailable", "EP201", 3, 7)
    assert len(kept["text"]) == ERROR_CHARS_MAX
    assert len(kept["traceback"]) <= TRACEBACK_CHARS_MAX
    assert json.loads(json.dumps(kept)) == kept


def test_an_error_that_was_never_raised_has_no_place() -> None:
    kept = error_record(KeyError("a"), 1, 0)

    assert (kept["type"], kept["text"], kept["code"], kept["place"]) == ("KeyError", "'a'", None, None)


def test_the_place_is_the_innermost_frame_of_the_users_code() -> None:
    line = handler.__code__.co_firstlineno + 1
    reads = lambda: json.loads("{")  # noqa: E731 - a frame of ours around one of the standard library's

    assert place_of(raised(handler)) == f"{__name__}.handler:{line}"
    assert str(place_of(raised(reads))).startswith(f"{__name__}.test_the_place")
    assert "no stock" in error_record(raised(handler), 1, 0)["traceback"]


def test_the_place_of_a_timeout_is_what_took_so_long() -> None:
    async def slow() -> None:
        await asyncio.Event().wait()

    async def call() -> None:
        async with asyncio.timeout(0):
            await slow()

    error = raised(lambda: asyncio.run(call()))

    assert isinstance(error, TimeoutError)
    assert ".call:" in str(place_of(error)) or ".slow:" in str(place_of(error))


def test_a_service_that_is_installed_is_told_from_the_packages_it_calls(tmp_path: Path) -> None:
    shop = installed(tmp_path, "shop", "def reserve(call):\n    call()\n")
    driver = installed(tmp_path, "driver", "def fail():\n    raise OSError('gone')\n")

    chain = importlib.util.find_spec("json")
    assert chain is not None
    error = raised(lambda: shop.reserve(driver.fail))

    assert str(place_of(error)).startswith(f"{__name__}."), "this test's own frame is the user's"
    assert place_of(without_first_frame(error)) == "shop.reserve:2"


def without_first_frame(error: BaseException) -> BaseException:
    """As raised below the platform's own frames: without this file's."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next
    return error.with_traceback(traceback)


def installed(folder: Path, name: str, source: str) -> ModuleType:
    path = folder / "site-packages" / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_where_no_frame_is_the_users_the_platforms_own_is_named() -> None:
    from pydantic import TypeAdapter  # noqa: PLC0415 - only here

    error = raised(parse, TypeAdapter(int), b"{")

    assert isinstance(error, Malformed)
    assert str(place_of(without_first_frame(error))).startswith("eventplat.messages.codec.parse:")


def test_a_history_keeps_the_newest_entries_and_every_edit() -> None:
    history: list[Entry] = [action_record(EDITED, by="ana", now_us=0, body="the first")]
    for attempt in range(100):
        history = with_entry(history, error_record(ValueError(), attempt, 0))

    assert len(history) == ERRORS_MAX + 1
    assert history[0]["body"] == "the first"
    assert history[-1]["attempt"] == 99


@pytest.mark.parametrize("entry", [None, {}])
def test_nothing_is_added_where_nothing_happened(entry: Entry | None) -> None:
    assert with_entry([], entry) == []


def test_the_newest_error_is_found_behind_what_an_operator_did() -> None:
    errors = [error_record(ValueError(), attempt, 0) for attempt in (1, 2)]

    assert newest_error([*errors, action_record("replayed", by="ana", now_us=0)]) == errors[1]
    assert newest_error([action_record("replayed", by="ana", now_us=0)]) is None
