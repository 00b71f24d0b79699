"""What is news to a history, and what takes the place of what."""

from __future__ import annotations

from typing import get_args

import pytest

from eventplat.sagas.history import Answered, Asked, Cancelled, Outcome, Record, is_news, step_id, stuck_paths, with_news
from tests.unit.sagas.shop import STARTED_US

CALL, PIVOT, LATER = Asked("0", "call"), Asked("1", "pivot"), Asked("2", "call")
UNDO, SLEEP = Asked("undo.0", "undo"), Asked("3", "sleep")
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


def waits_on(asked: Asked, outcome: Outcome, *before: Record) -> bool:
    return is_news([*before, asked, Answered(asked.path, outcome)], Answered(asked.path, "done"))


def test_a_step_that_was_never_asked_hears_nothing() -> None:
    assert not is_news([CALL], Answered("7", "done"))


def test_an_open_step_hears_its_first_answer() -> None:
    assert is_news([CALL], Answered("0", "failed"))


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_call_before_the_pivot_and_a_sleep_end_with_any_answer(outcome: Outcome) -> None:
    assert not waits_on(CALL, outcome)
    assert not waits_on(SLEEP, outcome, PIVOT)
    assert not is_news([CALL, Answered("0", outcome), PIVOT], Answered("0", "done"))


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_undo_waits_on_until_it_is_done_or_void(outcome: Outcome) -> None:
    assert waits_on(UNDO, outcome) == (outcome in ("rejected", "failed", "timed_out"))


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_call_past_the_pivot_waits_on_until_it_is_done_or_refused(outcome: Outcome) -> None:
    assert waits_on(LATER, outcome, PIVOT) == (outcome in ("failed", "timed_out", "void"))


def test_the_newest_answer_takes_the_place_of_the_one_before() -> None:
    history: list[Record] = [PIVOT, LATER, Answered("2", "failed"), SLEEP]

    assert with_news(history, Answered("2", "done")) == [PIVOT, LATER, SLEEP, Answered("2", "done")]
    assert with_news(history, Cancelled(5)) == [*history, Cancelled(5)]


def test_stuck_are_the_steps_that_must_be_done_and_are_not() -> None:
    history: list[Record] = [CALL, Answered("0", "failed"), PIVOT, LATER, UNDO, Answered("2", "void"), Answered("undo.0", "rejected")]

    assert stuck_paths(history) == ["2", "undo.0"]
    assert stuck_paths([PIVOT, LATER, Answered("2", "timed_out")]) == []  # it is sent again by itself


def test_a_cancellation_is_news_once_and_only_before_the_pivot() -> None:
    assert is_news([CALL], Cancelled())
    assert not is_news([CALL, Cancelled()], Cancelled())
    assert not is_news([CALL, PIVOT], Cancelled())


def test_two_sagas_never_send_under_one_id() -> None:
    ids = {step_id(command, STARTED_US, path) for command in ("c-1", "c-2") for path in ("0", "1.0", "undo.0")}

    assert len(ids) == 6
