"""Outcomes, counted: how the broker took what was sent."""

from __future__ import annotations

from collections.abc import Sequence

from eventplat.broker.transport import Confirmed, Nacked, Outcome, Returned
from eventplat.observability.metrics import PUBLISHED

_COUNTERS = {kind: PUBLISHED.labels(kind.__name__.lower()) for kind in (Confirmed, Nacked, Returned)}


def count_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Count the outcomes of one batch; nearly always all of them are the first one's."""
    if len(outcomes) == 1 or all(isinstance(outcome, Confirmed) for outcome in outcomes):
        if outcomes:
            _COUNTERS[type(outcomes[0])].inc(len(outcomes))
        return
    for outcome in outcomes:
        _COUNTERS[type(outcome)].inc()
