"""Prefetch: how many deliveries a consumer holds, from how long it takes to handle one. Pure.

A consumer needs what it handles now, and what it gets done until more has come. Whatever it holds beyond that a faster
instance could have begun: measured with three instances that need 20, 40 and 80 ms and a prefetch of 64, the slowest took a
quarter more than its share, and went on for five seconds after the others had nothing left to do.

    wanted = at once + AHEAD_S * slots / seconds each        (Little's law), at most what is configured

Begins   small, so that a backlog is shared fairly from the first delivery on; a quick handler grows within `SAMPLES`.
Changes  by a factor of two or more, and not again for `STAYS_S`: each one costs the broker a consumer.

Source    Little, "A Proof for the Queuing Formula L = λW" (1961); RabbitMQ, "Consumer Prefetch".

Next: broker.consumer
"""

from __future__ import annotations

import math

AHEAD_S = 0.1        # of work beyond what runs: many round trips to a broker, and little for a neighbour to wait for
SAMPLES = 8          # deliveries before the first change, and the weight of what was measured before
STAYS_S = 10.0


class Prefetch:
    """One consumer's, over its life.

    Args:
        slots: How often the handler runs at the same time.
        batch: Deliveries that each of them takes at most.
        most: What is configured.
    """

    def __init__(self, *, slots: int, batch: int, most: int) -> None:
        self._slots, self._at_once = slots, slots * batch
        self._most = max(most, self._at_once)
        self.current = min(2 * self._at_once, self._most)
        self._each_s = 0.0
        self._samples, self._next_look = 0, SAMPLES
        self._changed_at = float("-inf")

    def handled(self, deliveries: int, seconds: float) -> None:
        """One slot has handled so many in `seconds`."""
        weight = 1 / min(self._samples + 1, SAMPLES)
        self._each_s += weight * (seconds / deliveries - self._each_s)
        self._samples += deliveries

    @property
    def wanted(self) -> int:
        """What it should hold, as measured."""
        ahead = AHEAD_S * self._slots / self._each_s if self._each_s > 0 else math.inf
        return int(min(self._at_once + math.ceil(min(ahead, self._most)), self._most))

    def change(self, now_s: float) -> int | None:
        """The prefetch to go on with, where it should be another one now."""
        if self._samples < self._next_look or now_s - self._changed_at < STAYS_S:
            return None
        self._next_look, wanted = self._samples + SAMPLES, self.wanted
        if self.current / 2 < wanted < self.current * 2 or wanted == self.current:
            return None
        self._changed_at, self.current = now_s, wanted
        return wanted
