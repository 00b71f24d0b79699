"""What a saga asks, hears and undoes."""

from __future__ import annotations

import asyncio
import gc
import random
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from eventplat.errors import Failed, Rejected, TimedOut
from eventplat.sagas.history import STEPS_MAX, Answered, Asked, Decision
from eventplat.sagas.replay import advance
from eventplat.sagas.saga import Saga
from tests.unit.sagas.shop import (
    CHARGE,
    ORDER,
    REFUND,
    RELEASE,
    RESERVE,
    STARTED_US,
    ChargeCard,
    OrderPlaced,
    PlaceOrder,
    QuotePrice,
    ReleaseStock,
    ReserveStock,
    Story,
    ship,
    unship,
)


async def checkout(order: PlaceOrder, saga: Saga) -> str:
    reservation = await saga.call(RESERVE, undo=RELEASE)
    receipt = await saga.call(CHARGE, undo=REFUND, timeout=10)
    await saga.call(ship(), undo=unship())
    saga.pivot()
    saga.publish(OrderPlaced(order_id=order.order_id))
    return f"{reservation.place} {receipt}"


def asked_types(decision: Decision) -> list[str]:
    return [ask.record.type for ask in decision.asked]


# --- forward ---------------------------------------------------------------------------------------------------------


def test_a_saga_asks_one_step_at_a_time_and_ends_with_its_reply() -> None:
    story = Story(checkout)
    assert [(ask.record.path, ask.message, ask.record.timeout_s) for ask in story.decision.asked] == [("0", RESERVE, 30.0)]
    story.answer("0")
    assert [(ask.record.path, ask.message, ask.record.timeout_s) for ask in story.decision.asked] == [("1", CHARGE, 10.0)]
    story.answer("1")
    assert story.answer("2").status == "completed"

    assert story.outcome == "A7 42"
    assert story.asked[-2:] == ["pivot", "publish orders.order-placed.v1"]
    assert story.decision.open == ()


def test_the_exact_bytes_and_the_undo_are_recorded_with_the_step() -> None:
    record = Story(checkout).decision.asked[0].record

    assert record.type == "stock.reserve-stock.v1"
    assert record.body == RESERVE.to_bytes()
    assert record.undo == ("stock.release-stock.v1", RELEASE.to_bytes())


def test_a_decision_on_the_same_history_asks_nothing_new() -> None:
    story = Story(checkout)
    decision = story.redeployed(checkout)

    assert decision.status == "running"
    assert decision.asked == ()
    assert [ask.record.path for ask in decision.open] == ["0"]


def test_a_message_without_an_owner_belongs_to_the_service_of_the_saga() -> None:
    async def announce(order: PlaceOrder, saga: Saga) -> str:
        saga.publish(OrderPlaced(order_id=order.order_id))
        return "said"

    assert asked_types(Story(announce).decision) == ["orders.order-placed.v1"]


def test_publish_and_send_take_a_number_and_wait_for_nothing() -> None:
    async def talk(order: PlaceOrder, saga: Saga) -> str:
        saga.publish(OrderPlaced(order_id=order.order_id))
        saga.send(CHARGE)
        await saga.call(RESERVE)
        return "said"

    decision = Story(talk).decision
    assert [(ask.record.path, ask.record.kind) for ask in decision.asked] == [("0", "publish"), ("1", "send"), ("2", "call")]
    assert [ask.record.path for ask in decision.open] == ["2"]


def test_a_query_is_a_step_like_a_command() -> None:
    async def ask(order: PlaceOrder, saga: Saga) -> str:
        price = await saga.call(QuotePrice(sku="x"))
        return str(price)

    story = Story(ask)
    story.answer("0")
    assert story.outcome == "9"


def test_a_sleep_is_a_step_with_its_length() -> None:
    async def rest(order: PlaceOrder, saga: Saga) -> str:
        await saga.sleep(timedelta(days=2))
        return "rested"

    story = Story(rest)
    assert [(ask.record.kind, ask.record.timeout_s, ask.message) for ask in story.decision.asked] == [("sleep", 172_800.0, None)]
    assert story.answer("0").status == "completed"


def test_now_is_the_time_of_the_newest_answer() -> None:
    async def clock(order: PlaceOrder, saga: Saga) -> str:
        before = saga.now
        await saga.sleep(1)
        return f"{before.isoformat()} {saga.now - before}"

    story = Story(clock)
    story.answer("0")
    assert story.outcome == f"{datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC).isoformat()} 0:00:01"


def test_random_replays_and_differs_by_place_draw_and_saga() -> None:
    async def draw(order: PlaceOrder, saga: Saga) -> str:
        drawn = [saga.random.random(), saga.random.random()]
        await saga.sleep(1)
        return " ".join(str(each) for each in [*drawn, saga.random.random()])

    story = Story(draw)
    story.answer("0")
    again = Story(draw, history=story.history)
    other = advance(draw, ORDER, story.history, saga_id="s-2", service="orders", started_us=STARTED_US)
    assert again.outcome == story.outcome
    assert len(set(story.outcome.split())) == 3
    assert other.outcome != story.decision.outcome


def test_the_version_at_the_start_chooses_the_code() -> None:
    async def grown(order: PlaceOrder, saga: Saga) -> str:
        if saga.version >= 2:
            await saga.call(CHARGE)
        await saga.call(RESERVE)
        return saga.id

    assert asked_types(Story(grown, version=1).decision) == ["stock.reserve-stock.v1"]
    assert asked_types(Story(grown, version=2).decision) == ["payments.charge-card.v1"]


# --- gather ----------------------------------------------------------------------------------------------------------


async def side_by_side(order: PlaceOrder, saga: Saga) -> str:
    async def paid() -> int:
        first = await saga.call(CHARGE, undo=REFUND)
        await saga.call(QuotePrice(sku="x"))
        return first

    await saga.sleep(1)
    reservation, receipt = await saga.gather(saga.call(RESERVE, undo=RELEASE), paid())
    await saga.call(ship())
    return f"{reservation.place} {receipt}"


def test_a_gather_numbers_its_steps_by_branch_and_returns_in_the_order_given() -> None:
    story = Story(side_by_side)
    story.answer("0")
    assert story.open == ["1.0.0", "1.1.0"]
    story.answer("1.1.0")
    story.answer("1.1.1")
    story.answer("1.0.0")
    assert story.open == ["2"]
    story.answer("2")
    assert story.outcome == "A7 42"


def test_gathers_nest() -> None:
    async def nested(order: PlaceOrder, saga: Saga) -> str:
        both = await saga.gather(saga.gather(saga.call(ship(1)), saga.call(ship(2))), saga.gather())
        return repr(both)

    story = Story(nested)
    assert story.open == ["0.0.0.0.0", "0.0.0.1.0"]
    story.answer("0.0.0.1.0", reply="b")
    story.answer("0.0.0.0.0", reply="a")
    assert story.outcome == "(('a', 'b'), ())"


def test_a_thousand_empty_gathers_need_no_stack() -> None:
    async def busy(order: PlaceOrder, saga: Saga) -> str:
        async def nothing() -> None:
            return None

        for _ in range(2_000):
            await saga.gather(nothing(), nothing())
        return "done"

    assert Story(busy).decision.status == "completed"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_branches_that_share_a_variable_interleave_as_they_first_did(order: tuple[int, int]) -> None:
    async def shared(_: PlaceOrder, saga: Saga) -> str:
        seen: list[int] = []

        async def branch(part: int) -> None:
            await saga.call(ship(part))
            seen.append(part)
            await saga.call(ship(10 + 10 * len(seen) + part))

        await saga.gather(branch(0), branch(1))
        return repr(seen)

    story = Story(shared)
    for part in order:
        story.answer(f"0.{part}.0")
    for part in (0, 1):
        story.answer(f"0.{part}.1")
    assert story.decision.status == "completed"
    assert story.outcome == repr(list(order))


def test_a_gather_waits_for_all_and_raises_the_first_failure_by_position() -> None:
    story = Story(side_by_side)
    story.answer("0")
    story.answer("1.1.0", "rejected", {"reason": "second", "status": 409, "facts": {}})
    assert story.open == ["1.0.0"]
    assert story.answer("1.0.0", "rejected", {"reason": "first", "status": 409, "facts": {}}).status == "compensated"
    assert story.outcome["reason"] == "first"


def test_a_bug_in_a_branch_goes_before_a_refusal_in_an_earlier_one() -> None:
    async def broken(order: PlaceOrder, saga: Saga) -> str:
        async def buggy() -> None:
            raise KeyError("lost")

        with suppress(Rejected):
            await saga.gather(saga.call(RESERVE, undo=RELEASE), buggy())
        return "fine"

    story = Story(broken)
    assert story.answer("0.0.0", "rejected").status == "operator"
    assert "KeyError: 'lost'" in story.decision.problem


# --- endings ---------------------------------------------------------------------------------------------------------


def test_a_refusal_undoes_the_done_steps_last_first_one_at_a_time() -> None:
    story = Story(checkout)
    story.answer("0")
    story.answer("1")
    decision = story.answer("2", "rejected")
    assert decision.status == "compensating"
    [ask] = decision.asked
    assert (ask.record.path, ask.record.kind, ask.message, ask.undoes) == ("undo.1", "undo", REFUND, "1")
    decision = story.answer("undo.1")
    assert [(ask.record.path, ask.message, ask.record.body) for ask in decision.asked] == [("undo.0", RELEASE, RELEASE.to_bytes())]
    assert story.answer("undo.0").status == "compensated"
    assert story.outcome == {"reason": "no", "status": 422, "facts": {"left": 0}}


def test_a_step_is_undone_with_the_bytes_recorded_when_it_was_asked() -> None:
    class ReleaseMore(ReleaseStock, name="stock.release-stock"):
        because: str = "order"

    async def newer(order: PlaceOrder, saga: Saga) -> str:
        await saga.call(RESERVE, undo=ReleaseMore(order_id="o-1"))
        await saga.call(CHARGE, undo=REFUND, timeout=10)
        return "done"

    story = Story(checkout)
    story.answer("0")
    story.history.append(Answered("1", "rejected", b'{"reason": "no"}', story.now_us))
    decision = story.redeployed(newer)
    assert [(ask.record.path, ask.record.body) for ask in decision.asked] == [("undo.0", RELEASE.to_bytes())]


def test_the_function_may_catch_a_refusal_and_go_another_way() -> None:
    async def stubborn(order: PlaceOrder, saga: Saga) -> str:
        await saga.call(RESERVE, undo=RELEASE)
        try:
            await saga.call(CHARGE, undo=REFUND)
        except Rejected as no:
            return f"{no.reason} {no.status} {no.facts}"
        return "paid"

    story = Story(stubborn)
    story.answer("0")
    assert story.answer("1", "rejected").status == "completed"
    assert story.outcome == "no 422 {'left': 0}"


def test_a_refusal_of_the_function_itself_undoes_too() -> None:
    async def picky(order: PlaceOrder, saga: Saga) -> str:
        await saga.call(RESERVE, undo=RELEASE)
        raise Rejected("too_late", status=410, hour=25)

    story = Story(picky)
    story.answer("0")
    story.answer("undo.0")
    assert story.decision.status == "compensated"
    assert story.outcome == {"reason": "too_late", "status": 410, "facts": {"hour": 25}}


def test_a_step_out_of_attempts_did_not_happen_and_the_ones_before_it_are_undone() -> None:
    story = Story(checkout)
    story.answer("0")
    assert asked_types(story.answer("1", "failed")) == ["stock.release-stock.v1"]
    assert story.answer("undo.0").status == "compensated"
    assert story.outcome["reason"] == "failed"
    assert "payments.charge-card.v1 at step 1" in story.outcome["facts"]["detail"]


def test_a_timed_out_step_is_undone_before_the_function_hears_of_it() -> None:
    async def elsewhere(order: PlaceOrder, saga: Saga) -> str:
        try:
            await saga.call(RESERVE, undo=RELEASE)
        except TimedOut:
            await saga.call(QuotePrice(sku="x"))
        return "done"

    story = Story(elsewhere)
    decision = story.answer("0", "timed_out")
    assert [(ask.record.path, ask.record.kind) for ask in decision.asked] == [("undo.0", "undo"), ("1", "call")]
    assert story.answer("1").status == "running"  # the reply is known, the undo is not confirmed
    assert story.open == ["undo.0"]
    assert story.answer("undo.0", "void").status == "completed"


def test_the_compensation_begins_when_the_undo_of_the_timed_out_step_is_confirmed() -> None:
    story = Story(checkout)
    story.answer("0")
    assert asked_types(story.answer("1", "timed_out")) == ["payments.refund-card.v1"]
    assert story.decision.status == "compensating"
    assert asked_types(story.answer("undo.1")) == ["stock.release-stock.v1"]
    assert story.answer("undo.0").status == "compensated"
    assert story.outcome["reason"] == "timed_out"
    assert story.outcome["facts"] == {"detail": "payments.charge-card.v1 at step 1 had no answer in 10 s"}


def test_a_timed_out_step_without_undo_is_only_told() -> None:
    async def quote(order: PlaceOrder, saga: Saga) -> str:
        try:
            await saga.call(QuotePrice(sku="x"), timeout=0.5)
        except TimedOut as late:
            return late.args[0]  # type: ignore[no-any-return]
        return "known"

    story = Story(quote)
    assert story.answer("0", "timed_out").status == "completed"
    assert story.outcome == "stock.quote-price.v1 at step 0 had no answer in 0.5 s"


def test_a_late_answer_to_a_timed_out_step_changes_nothing() -> None:
    story = Story(checkout)
    story.answer("0", "timed_out")
    before = story.decision
    after = story.answer("0", "done")
    assert (after.status, after.open, after.asked) == (before.status, before.open, ())
    assert story.answer("undo.0").status == "compensated"


def test_a_void_step_never_happens_so_it_times_out_without_an_undo() -> None:
    story = Story(checkout)
    story.answer("0")
    assert asked_types(story.answer("1", "void")) == ["stock.release-stock.v1"]
    assert story.answer("undo.0").status == "compensated"
    assert story.outcome["reason"] == "timed_out"


def test_an_undo_is_done_once_it_is_void() -> None:
    story = Story(checkout)
    story.answer("0", "timed_out")
    assert story.answer("undo.0", "void").status == "compensated"


@pytest.mark.parametrize("outcome", ["rejected", "failed"])
def test_a_failing_undo_is_an_operators_until_it_is_done(outcome: Any) -> None:
    story = Story(checkout)
    story.answer("0")
    story.answer("1")
    story.answer("2", "rejected")
    decision = story.answer("undo.1", outcome)
    assert decision.status == "operator"
    assert decision.asked == ()
    assert "undo.1 (payments.refund-card.v1) is " + outcome in decision.problem
    assert asked_types(story.answer("undo.1", "done")) == ["stock.release-stock.v1"]
    assert story.answer("undo.0").status == "compensated"


def test_an_undo_that_times_out_is_sent_again_under_the_same_id() -> None:
    story = Story(checkout)
    story.answer("0", "timed_out")
    decision = story.answer("undo.0", "timed_out")
    assert decision.status == "compensating"
    assert [ask.record.path for ask in decision.resend] == ["undo.0"]
    assert story.answer("undo.0").resend == ()
    assert story.decision.status == "compensated"


def test_a_bug_undoes_nothing_sends_nothing_and_a_fixed_deploy_goes_on() -> None:
    async def buggy(order: PlaceOrder, saga: Saga) -> str:
        await saga.call(RESERVE, undo=RELEASE)
        saga.publish(OrderPlaced(order_id="o-1"))
        raise KeyError("price")

    async def fixed(order: PlaceOrder, saga: Saga) -> str:
        await saga.call(RESERVE, undo=RELEASE)
        saga.publish(OrderPlaced(order_id="o-1"))
        return "fine"

    story = Story(buggy)
    decision = story.answer("0")
    assert (decision.status, decision.asked, decision.open) == ("operator", (), ())
    assert "KeyError: 'price'" in decision.problem
    assert "test_replay.py" in decision.problem
    assert story.redeployed(fixed).status == "completed"


def test_a_reply_that_is_not_what_the_command_promises_is_a_bug() -> None:
    async def liar(order: PlaceOrder, saga: Saga) -> int:
        return 7

    decision = Story(liar).decision
    assert decision.status == "operator"
    assert "Serializ" in decision.problem


def test_an_answer_that_cannot_be_read_is_an_operators_and_no_except_hides_it() -> None:
    async def deaf(order: PlaceOrder, saga: Saga) -> str:
        try:
            await saga.call(RESERVE, undo=RELEASE)
        except Exception:
            return "whatever"
        return "fine"

    assert "step 0 (stock.reserve-stock.v1) cannot be read" in Story(deaf).answer("0", reply={"room": 1}).problem
    assert "step 0 (stock.reserve-stock.v1) cannot be read" in Story(deaf).answer("0", "rejected", [1]).problem


def test_an_undo_with_another_key_or_owner_is_refused() -> None:
    async def mismatched(order: PlaceOrder, saga: Saga) -> str:
        await saga.call(RESERVE, undo=ReleaseStock(order_id="o-2"))
        return "no"

    async def misowned(order: PlaceOrder, saga: Saga) -> str:
        await saga.call(RESERVE, undo=REFUND)
        return "no"

    assert "release-stock cannot undo reserve-stock" in Story(mismatched).decision.problem
    assert "refund-card cannot undo reserve-stock" in Story(misowned).decision.problem


# --- the pivot -------------------------------------------------------------------------------------------------------


async def past_the_pivot(order: PlaceOrder, saga: Saga) -> str:
    await saga.call(RESERVE, undo=RELEASE)
    saga.pivot()
    try:
        await saga.call(CHARGE, undo=REFUND)
    except Rejected as no:
        if no.reason == "expected":
            return "anyway"
        raise
    return "paid"


def test_after_the_pivot_a_timeout_sends_the_same_step_again() -> None:
    story = Story(past_the_pivot)
    story.answer("0")
    decision = story.answer("2", "timed_out")
    assert decision.status == "running"
    assert [(ask.record.path, ask.message) for ask in decision.resend] == [("2", CHARGE)]
    assert decision.asked == ()
    assert story.answer("2", "done").status == "completed"
    assert story.decision.resend == ()


def test_after_the_pivot_a_refusal_is_an_operators_unless_the_function_expects_it() -> None:
    story = Story(past_the_pivot)
    story.answer("0")
    unexpected, expected = Story(past_the_pivot, history=story.history), Story(past_the_pivot, history=story.history)
    decision = unexpected.answer("2", "rejected")
    assert (decision.status, decision.asked) == ("operator", ())
    assert "past its pivot the saga ended by Rejected: no" in decision.problem
    assert expected.answer("2", "rejected", {"reason": "expected"}).status == "completed"


@pytest.mark.parametrize("outcome", ["failed", "void"])
def test_after_the_pivot_a_step_out_of_attempts_waits_for_its_replay(outcome: Any) -> None:
    story = Story(past_the_pivot)
    story.answer("0")
    assert story.answer("2", outcome).status == "operator"
    assert story.decision.open[0].record.path == "2"
    assert story.answer("2", "done").status == "completed"


def test_a_pivot_in_a_branch_is_refused_and_no_except_hides_it() -> None:
    async def branch_pivot(order: PlaceOrder, saga: Saga) -> str:
        async def branch() -> None:
            with suppress(BaseException):
                saga.pivot()

        await saga.gather(branch(), saga.call(RESERVE))
        return "done"

    assert "pivot() in a branch of gather" in Story(branch_pivot).decision.problem


# --- cancellation ----------------------------------------------------------------------------------------------------


def test_a_cancelled_saga_hears_its_open_call_out_and_undoes_it() -> None:
    story = Story(checkout)
    assert story.cancel().status == "running"
    decision = story.answer("0")
    assert [ask.record.path for ask in decision.asked] == ["undo.0"]
    assert story.answer("undo.0").status == "compensated"
    assert story.outcome == {"reason": "cancelled", "status": 409, "facts": {"detail": "cancelled"}}


def test_a_cancelled_saga_does_not_sleep_on() -> None:
    async def slow(order: PlaceOrder, saga: Saga) -> str:
        await saga.call(RESERVE, undo=RELEASE)
        await saga.gather(saga.sleep(3_600), saga.sleep(7_200))
        return "late"

    story = Story(slow)
    story.answer("0")
    assert asked_types(story.cancel()) == ["stock.release-stock.v1"]
    assert story.open == ["undo.0"]
    assert story.answer("1.0.0").status == "compensating"  # the timer fires all the same
    assert story.answer("undo.0").status == "compensated"


def test_a_cancelled_saga_does_not_pass_its_pivot() -> None:
    async def short(order: PlaceOrder, saga: Saga) -> str:
        await saga.call(RESERVE, undo=RELEASE)
        saga.pivot()
        return "done"

    story = Story(short)
    story.cancel()
    assert story.answer("0").status == "compensating"


def test_a_saga_past_its_pivot_cannot_be_cancelled() -> None:
    story = Story(past_the_pivot)
    story.answer("0")
    assert story.cancel().status == "running"
    assert story.answer("2").status == "completed"


def test_a_function_that_swallows_its_cancellation_is_undone_all_the_same() -> None:
    async def deaf(order: PlaceOrder, saga: Saga) -> str:
        await saga.call(RESERVE, undo=RELEASE)
        for _ in range(3):
            with suppress(BaseException):
                await saga.call(CHARGE)
        return "done"

    story = Story(deaf)
    story.cancel()
    assert story.answer("0").status == "compensating"
    assert [ask.record.path for ask in story.decision.asked] == ["undo.0"]


def test_a_saga_without_a_further_await_is_completed_before_it_can_be_cancelled() -> None:
    async def single(order: PlaceOrder, saga: Saga) -> str:
        await saga.call(RESERVE, undo=RELEASE)
        return "done"

    story = Story(single)
    story.cancel()
    assert story.answer("0").status == "completed"


def test_a_cancelled_saga_that_stands_on_a_bug_undoes_what_is_done() -> None:
    async def buggy(order: PlaceOrder, saga: Saga) -> str:
        await saga.call(RESERVE, undo=RELEASE)
        raise KeyError("price")

    story = Story(buggy)
    assert story.answer("0").status == "operator"
    assert story.cancel().status == "compensating"
    assert asked_types(story.decision) == ["stock.release-stock.v1"]
    assert story.answer("undo.0").status == "compensated"
    assert story.outcome["reason"] == "cancelled"


def test_a_bug_past_the_pivot_undoes_nothing_whoever_cancels() -> None:
    async def buggy(order: PlaceOrder, saga: Saga) -> str:
        await saga.call(RESERVE, undo=RELEASE)
        saga.pivot()
        raise KeyError("price")

    story = Story(buggy)
    story.answer("0")
    assert (story.cancel().status, story.decision.asked) == ("operator", ())


# --- divergence ------------------------------------------------------------------------------------------------------


def started() -> Story:
    story = Story(checkout)
    story.answer("0")
    return story


def diverges(function: Any) -> str:
    decision = started().redeployed(function)
    assert (decision.status, decision.asked) == ("operator", ())
    assert "EP601" in decision.problem
    return decision.problem


def test_another_message_at_a_recorded_path_diverges() -> None:
    async def other(order: PlaceOrder, saga: Saga) -> str:
        await saga.call(ship(), undo=unship())
        return "x"

    assert "the history has call stock.reserve-stock.v1" in diverges(other)


def test_another_field_at_a_recorded_path_diverges() -> None:
    async def other(order: PlaceOrder, saga: Saga) -> str:
        await saga.call(ReserveStock(order_id="o-1", quantity=2), undo=RELEASE)
        return "x"

    assert '"quantity":2' in diverges(other)


def test_another_kind_at_a_recorded_path_diverges() -> None:
    async def other(order: PlaceOrder, saga: Saga) -> str:
        saga.send(RESERVE)
        return "x"

    assert "the code asks send" in diverges(other)


def test_another_undo_or_none_diverges() -> None:
    async def other(order: PlaceOrder, saga: Saga) -> str:
        await saga.call(RESERVE, undo=ReleaseStock(order_id="o-1", quantity=3))
        return "x"

    async def none(order: PlaceOrder, saga: Saga) -> str:
        await saga.call(RESERVE)
        return "x"

    assert '"quantity":3' in diverges(other)
    diverges(none)


def test_a_recorded_step_that_the_code_no_longer_asks_diverges() -> None:
    async def shorter(order: PlaceOrder, saga: Saga) -> str:
        await saga.call(RESERVE, undo=RELEASE)
        return "x"

    assert "at step 1 the history has call payments.charge-card.v1" in diverges(shorter)


def test_an_answer_to_a_step_that_the_code_does_not_ask_diverges() -> None:
    async def nothing(order: PlaceOrder, saga: Saga) -> str:
        return "x"

    assert "step 0 was answered" in diverges(nothing)


def test_a_divergence_in_publish_cannot_be_swallowed() -> None:
    async def first(order: PlaceOrder, saga: Saga) -> str:
        saga.publish(OrderPlaced(order_id="o-1"))
        await saga.sleep(1)
        return "x"

    async def second(order: PlaceOrder, saga: Saga) -> str:
        with suppress(BaseException):
            saga.publish(OrderPlaced(order_id="o-1", note="new"))
        await saga.sleep(1)
        return "x"

    assert "EP601" in Story(first).redeployed(second).problem


def test_an_optional_field_that_is_new_does_not_diverge() -> None:
    class ReserveStock2(ReserveStock, name="stock.reserve-stock"):
        colour: str | None = None

    async def newer(order: PlaceOrder, saga: Saga) -> str:
        await saga.call(ReserveStock2(order_id="o-1"), undo=RELEASE)
        await saga.call(CHARGE, undo=REFUND, timeout=99)
        return "x"

    decision = started().redeployed(newer)
    assert (decision.status, decision.problem) == ("running", "")
    assert decision.open[0].record.timeout_s == 10.0  # as recorded


@pytest.mark.parametrize(
    "draw", [lambda: str(time.time_ns()), lambda: str(random.random()), lambda: str(uuid.uuid4())], ids=["clock", "chance", "id"]
)
def test_deciding_twice_finds_clocks_chance_and_fresh_ids_before_anything_is_sent(draw: Any) -> None:
    async def unsteady(order: PlaceOrder, saga: Saga) -> str:
        await saga.call(RESERVE)
        saga.publish(OrderPlaced(order_id="o-1", note=draw()))
        await saga.sleep(1)
        return "x"

    story = Story(unsteady)
    decision = story.answer("0")
    assert (decision.status, decision.asked) == ("operator", ())
    assert "deciding twice" in decision.problem


# --- what may be awaited ---------------------------------------------------------------------------------------------


def decided_under_a_loop(function: Any) -> Decision:
    async def decide() -> Decision:
        return Story(function).decision

    return asyncio.run(decide())


def test_a_foreign_await_stops_the_run_and_no_except_hides_it() -> None:
    async def dozing(order: PlaceOrder, saga: Saga) -> str:
        with suppress(BaseException):
            await asyncio.sleep(0)
        return await saga.call(ship())

    async def waiting(order: PlaceOrder, saga: Saga) -> str:
        await asyncio.sleep(60)
        return "x"

    for function in (dozing, waiting):
        decision = decided_under_a_loop(function)
        assert (decision.status, decision.asked) == ("operator", ())
        assert "EP602" in decision.problem


def test_a_foreign_await_is_found_without_a_loop_too() -> None:
    async def waiting(order: PlaceOrder, saga: Saga) -> str:
        await asyncio.sleep(60)
        return "x"

    assert "EP602" in Story(waiting).decision.problem


def test_asyncio_gather_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async def side(order: PlaceOrder, saga: Saga) -> str:
        await asyncio.gather(saga.call(RESERVE), saga.call(CHARGE))
        return "x"

    decision = decided_under_a_loop(side)
    assert (decision.status, decision.asked) == ("operator", ())
    assert "EP602" in decision.problem


def test_a_foreign_await_in_a_branch_is_found_too() -> None:
    async def branchy(order: PlaceOrder, saga: Saga) -> str:
        await saga.gather(saga.call(RESERVE), asyncio.sleep(0))
        return "x"

    assert "EP602" in decided_under_a_loop(branchy).problem


def test_the_step_after_the_last_allowed_one_is_refused() -> None:
    async def chatty(order: PlaceOrder, saga: Saga) -> str:
        for _ in range(STEPS_MAX):
            saga.publish(OrderPlaced(order_id="o-1"))
        return "x"

    async def chattier(order: PlaceOrder, saga: Saga) -> str:
        await chatty(order, saga)
        await saga.call(RESERVE)
        return "x"

    assert Story(chatty).decision.status == "completed"
    decision = Story(chattier).decision
    assert "EP603" in decision.problem
    assert decision.asked == ()


def test_a_thing_that_is_no_message_is_a_bug() -> None:
    async def wrong(order: PlaceOrder, saga: Saga) -> str:
        try:
            await saga.call({"order": 1})  # type: ignore[arg-type]
        except Exception:
            return "swallowed"
        return "x"

    assert "AttributeError" in Story(wrong).decision.problem


# --- put away --------------------------------------------------------------------------------------------------------


def test_a_step_in_a_finally_does_not_run_when_the_function_is_put_away() -> None:
    async def tidy(order: PlaceOrder, saga: Saga) -> str:
        try:
            await saga.call(RESERVE)
        finally:
            saga.publish(OrderPlaced(order_id="o-1"))
            await saga.call(CHARGE)
        return "x"

    story = Story(tidy)
    assert story.asked == ["call stock.reserve-stock.v1"]
    story.answer("0")
    assert story.asked[1:] == ["publish orders.order-placed.v1", "call payments.charge-card.v1"]


def test_what_a_finally_raises_when_the_function_is_put_away_is_a_bug() -> None:
    async def untidy(order: PlaceOrder, saga: Saga) -> str:
        try:
            receipt = await saga.call(CHARGE)
        finally:
            saga.version += receipt
        return "x"

    assert "UnboundLocalError" in Story(untidy).decision.problem


def test_a_foreign_await_in_a_finally_is_found_and_closed() -> None:
    async def untidy(order: PlaceOrder, saga: Saga) -> str:
        try:
            await saga.call(CHARGE)
        finally:
            for _ in range(3):
                with suppress(BaseException):
                    await asyncio.sleep(0)
        return "x"

    assert "EP602" in decided_under_a_loop(untidy).problem
    gc.collect()


@pytest.mark.filterwarnings("error")
def test_steps_made_and_not_yet_awaited_are_closed_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    async def early(order: PlaceOrder, saga: Saga) -> str:
        async def branch() -> None:
            await saga.sleep(1)

        first, second, later = saga.call(RESERVE, undo=RELEASE), saga.call(CHARGE), saga.gather(branch(), saga.sleep(2))
        await first
        await second
        await later
        return "x"

    story = Story(early)
    story.answer("0")
    story.answer("1", "rejected")
    story.answer("undo.0")
    gc.collect()
    assert story.decision.status == "compensated"
    assert [str(warning.message) for warning in recwarn] == []


def test_a_forgotten_await_is_a_bug() -> None:
    async def forgetful(order: PlaceOrder, saga: Saga) -> str:
        saga.call(CHARGE)  # type: ignore[unused-coroutine]
        return "paid"

    assert "before it awaited a step" in Story(forgetful).decision.problem


def test_a_keyboard_interrupt_is_not_a_sagas_ending() -> None:
    async def interrupted(order: PlaceOrder, saga: Saga) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Story(interrupted)


def test_failed_reaches_the_function_as_failed() -> None:
    async def patient(order: PlaceOrder, saga: Saga) -> str:
        try:
            await saga.call(CHARGE)
        except Failed as failed:
            return str(failed.args[0])
        return "x"

    story = Story(patient)
    story.answer("0", "failed")
    assert story.outcome == "payments.charge-card.v1 at step 0 ran out of attempts"


def test_records_keep_the_exact_bytes_as_text() -> None:
    record = Asked("2.1.0", "call", "a.b.v1", '{"x":"é\\n"}'.encode(), "d", ("a.c.v1", b"{}"), 0.5)
    assert Asked.from_json(record.to_json()) == record


def test_a_charge_is_typed_by_its_command() -> None:
    async def typed(order: PlaceOrder, saga: Saga) -> str:
        number: int = await saga.call(ChargeCard(order_id="o-1"))
        place, amount, nap = await saga.gather(saga.call(RESERVE), saga.call(CHARGE), saga.sleep(0))
        assert nap is None
        return f"{place.place}{number + amount}"

    story = Story(typed)
    for path in ("0", "1.0.0", "1.1.0", "1.2.0"):
        story.answer(path)
    assert story.outcome == "A784"
