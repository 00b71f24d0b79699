"""`eventplat dlq`: what an operator types and reads, on a shop's database without the shop."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest

from eventplat.messages.ids import new_id
from tests.unit.cli.letters import IDS, ON_PLACED, make
from tests.unit.cli.terminal import Terminal


@pytest.fixture
def shop(terminal: Terminal, tmp_path: Path, app: str) -> Terminal:
    """A terminal in a folder with a shop's code and database."""
    make(tmp_path)
    return terminal


def told(shop: Terminal, *words: str) -> Any:
    said = shop.type(*words, "--json")
    assert (said.code, said.err) == (0, ""), said
    return json.loads(said.out)


def dead(shop: Terminal) -> list[str]:
    return sorted(row["message_id"] for row in told(shop, "dlq", "list"))


def test_dead_letters_are_listed_in_columns_and_as_json(shop: Terminal) -> None:
    said = shop.type("dlq", "list")

    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[0].split() == ["id", "handler", "state", "attempts", "failed", "error", "place", "text"]
    assert len(lines) == 3
    assert {line.split()[0] for line in lines[1:]} == set(IDS[:2])
    assert all("ValueError" in line and "letters.fail:" in line and "no stock" in line for line in lines[1:])

    rows = told(shop, "dlq", "list")
    assert [(row["service"], row["handler"], row["state"], row["type"], row["key"]) for row in rows] == [
        ("shop", ON_PLACED, "dead", "shop.placed.v1", "o-1")
    ] * 2
    assert rows[0]["failed"] == "2030-03-17T17:46:40.000Z"


def test_filters_select_and_nothing_found_is_said(shop: Terminal) -> None:
    assert [row["message_id"] for row in told(shop, "dlq", "list", "--text", "STOCK 1")] == [IDS[1]]
    assert [row["message_id"] for row in told(shop, "dlq", "list", "--state", "held")] == [IDS[2]]
    assert len(told(shop, "dlq", "list", "--state", "any", "--service", "shop")) == 3
    assert told(shop, "dlq", "list", "--since", "2030-03-17T18:00") == []
    assert shop.type("dlq", "list", "--error", "KeyError").out == "no dead messages\n"
    assert shop.type("dlq", "list", "--since", "yesterday").code == 2


def test_dead_letters_are_grouped(shop: Terminal) -> None:
    (group,) = told(shop, "dlq", "groups")

    assert (group["handler"], group["error"], group["count"]) == (ON_PLACED, "ValueError", 2)
    assert re.search(r"letters\.fail:\d+$", group["place"])
    assert shop.type("dlq", "groups").out.splitlines()[1].split()[:3] == ["2", ON_PLACED, "ValueError"]


def test_one_is_shown_with_body_and_traceback(shop: Terminal) -> None:
    said = shop.type("dlq", "show", IDS[0])

    assert said.code == 0
    assert '"order_id": "o-1"' in said.out
    assert "attempt 1: ValueError: no stock 0" in said.out
    assert "Traceback (most recent call last)" in said.out
    whole = told(shop, "dlq", "show", IDS[0])
    assert (whole["body"], whole["history"][0]["text"], whole["properties"]["seq"]) == ({"order_id": "o-1"}, "no stock 0", 1)


def test_an_edit_is_checked_shown_as_a_diff_and_not_made_in_a_dry_run(shop: Terminal) -> None:
    edit = ("dlq", "edit", IDS[0], "--body")

    assert shop.type(*edit, '{"order_id": "o-1", "note": 1}', "--dry-run").out.endswith('+  "order_id": "o-1",\n+  "note": 1\n }\n')
    assert told(shop, "dlq", "show", IDS[0])["body"] == {"order_id": "o-1"}
    refused = shop.type(*edit, '{"order": "o-1"}', "--yes")
    assert (refused.code, refused.err.rpartition(" ")[2]) == (1, "[EP522]\n")
    assert "no Placed: order_id: Field required" in refused.err

    said = shop.type(*edit, '{"order_id": "o-1", "note": 1}', "--yes")
    assert said.out.endswith(f"edited; run it by `eventplat dlq replay {IDS[0]}`\n")
    whole = told(shop, "dlq", "show", IDS[0])
    assert (whole["body"], whole["history"][-1]["action"], whole["history"][-1]["body"]) == (
        {"order_id": "o-1", "note": 1}, "edited", '{"order_id":"o-1"}',
    )  # fmt: skip
    assert "edited by " in shop.type("dlq", "show", IDS[0]).out


def test_an_edit_where_the_class_is_not_at_hand_is_refused_with_what_to_do(shop: Terminal, tmp_path: Path) -> None:
    (tmp_path / "app.py").unlink()

    said = shop.type("dlq", "edit", IDS[0], "--body", "{}", "--yes")

    assert said.code == 1
    assert "--module services.shop" in said.err


def test_a_replay_says_how_many_and_changes_nothing_in_a_dry_run(shop: Terminal) -> None:
    assert shop.type("dlq", "replay", "--all", "--dry-run").out == "2 messages would be replayed\n"
    assert dead(shop) == IDS[:2]

    said = told(shop, "dlq", "replay", IDS[1])
    assert (said["count"], said["messages"], said["refused"]) == (1, [{"handler": ON_PLACED, "message_id": IDS[1]}], [])
    assert shop.type("dlq", "replay", "--error", "ValueError", "--rate", "0.5").out == "1 messages replayed\nat 0.5 a second, within 2 s\n"
    assert dead(shop) == []
    assert {row["state"] for row in told(shop, "dlq", "list", "--state", "any")} == {"retry", "held"}


@pytest.mark.parametrize("verb", ["replay", "discard"])
def test_what_is_meant_has_to_be_said(shop: Terminal, verb: str) -> None:
    nothing = shop.type("dlq", verb)
    unknown = shop.type("dlq", verb, new_id(1, Random(1)), "--yes" if verb == "discard" else "--dry-run")

    assert (nothing.code, unknown.code) == (2, 1)
    assert "or say --all" in nothing.err
    assert unknown.err.endswith("[EP520]\n")
    assert dead(shop) == IDS[:2]


def test_a_discard_asks_and_what_was_held_behind_goes_on(shop: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shop.type("dlq", "discard", IDS[1], "--dry-run").out == "1 messages would be discarded\n"
    asked: list[str] = []
    monkeypatch.setattr("click.confirm", lambda text, **options: asked.append(text))

    assert shop.type("dlq", "discard", IDS[1]).out == "1 messages discarded\n"

    assert asked == ["forget 1 messages for ever?"]
    assert dead(shop) == IDS[:1]
    assert [row["state"] for row in told(shop, "dlq", "list", "--state", "any") if row["message_id"] == IDS[2]] == ["retry"]


def test_a_discard_without_anybody_to_ask_changes_nothing(shop: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert shop.type("dlq", "discard", "--all").code == 1
    assert dead(shop) == IDS[:2]


def test_a_held_message_is_skipped_to(shop: Terminal) -> None:
    assert shop.type("dlq", "skip", IDS[2], "--dry-run").out == f"{ON_PLACED} would go on with {IDS[2]}\n"
    assert shop.type("dlq", "skip", IDS[2]).out == f"{ON_PLACED} goes on with {IDS[2]}\n"
    assert shop.type("dlq", "skip", IDS[2]).code == 1


def test_a_folder_without_a_database_says_so(terminal: Terminal) -> None:
    said = terminal.type("dlq", "list")

    assert said.code == 1
    assert "no service has a database where the settings point" in said.err


def test_a_service_without_a_database_here_is_named(shop: Terminal) -> None:
    said = shop.type("dlq", "list", "--service", "nowhere")

    assert said.code == 1
    assert "no database of nowhere where the settings point, only of shop" in said.err


def test_delayed_messages_are_listed_and_taken_back_once(shop: Terminal) -> None:
    (waiting,) = told(shop, "delayed", "list")
    assert (waiting["message_id"], waiting["service"], waiting["type"], waiting["key"]) == (IDS[3], "shop", "shop.placed.v1", "o-1")
    assert shop.type("delayed", "cancel", IDS[3], "--dry-run").out == f"{IDS[3]} of shop would be taken back\n"

    assert told(shop, "delayed", "cancel", IDS[3]) == {"message_id": IDS[3], "service": "shop", "cancelled": True}

    assert shop.type("delayed", "list").out == "no message waits for its time\n"
    again = shop.type("delayed", "cancel", IDS[3])
    assert (again.code, again.err.rpartition(" ")[2]) == (1, "[EP520]\n")


def test_handlers_are_listed_paused_and_resumed(shop: Terminal) -> None:
    listed = {handler["handler"]: handler for handler in told(shop, "handlers", "list")}
    assert set(listed) == {"shop.place", "shop.count", ON_PLACED}
    assert (listed[ON_PLACED]["dead"], listed[ON_PLACED]["held"], listed[ON_PLACED]["message"]) == (2, 1, "Placed")

    assert shop.type("handlers", "pause", ON_PLACED, "--dry-run").out == f"{ON_PLACED} would be paused\n"
    assert shop.type("handlers", "pause", ON_PLACED, "--reason", "the bank is down").out == f"{ON_PLACED} paused\n"
    assert shop.type("handlers", "pause", ON_PLACED).out == f"{ON_PLACED} is paused already\n"
    said = shop.type("handlers", "list").out
    assert re.search(rf"{re.escape(ON_PLACED)} +Placed +paused by \S+ .*the bank is down", said)

    assert told(shop, "handlers", "resume", ON_PLACED)[0]["changed"] is True
    assert shop.type("handlers", "resume", ON_PLACED).out == f"{ON_PLACED} was not paused\n"
    assert {handler["paused"] for handler in told(shop, "handlers", "list")} == {None}


def test_a_handler_that_is_none_is_not_paused(shop: Terminal) -> None:
    said = shop.type("handlers", "pause", "shop.plaze")

    assert (said.code, said.err.rpartition(" ")[2]) == (1, "[EP716]\n")
    assert "'shop.plaze' is none of shop.count, shop.on-placed, shop.place" in said.err
