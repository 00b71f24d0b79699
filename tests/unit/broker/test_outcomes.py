"""How the broker took what was sent is counted, each message once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from prometheus_client import REGISTRY

from eventplat.broker.outcomes import count_outcomes
from eventplat.broker.transport import Confirmed, Nacked, Outcome, Returned


def counted() -> dict[str, float]:
    names = ("confirmed", "nacked", "returned")
    return {name: REGISTRY.get_sample_value("eventplat_messages_published_total", {"outcome": name}) or 0.0 for name in names}


@pytest.mark.parametrize(
    ("outcomes", "more"),
    [
        ([], {}),
        ([Confirmed()], {"confirmed": 1}),
        ([Returned("NO_ROUTE")], {"returned": 1}),
        ([Confirmed()] * 500, {"confirmed": 500}),
        ([Confirmed(), Nacked("full"), Confirmed(), Returned("NO_ROUTE")], {"confirmed": 2, "nacked": 1, "returned": 1}),
    ],
)
def test_each_message_is_counted_by_its_outcome(outcomes: Sequence[Outcome], more: dict[str, float]) -> None:
    before = counted()

    count_outcomes(outcomes)

    assert {name: after - before[name] for name, after in counted().items() if after != before[name]} == more
