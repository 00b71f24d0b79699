"""Acks: which delivery tags may be settled together. Pure.

One ack with `multiple` settles every delivery up to its tag, so it may only reach as far as everything before
it is settled: the contiguous prefix. What is done beyond the prefix is acked by itself, at once: held back, a
slow delivery at the head would use up the prefetch of its neighbours.

    delivered 1 2 3 4 5, acked 1 2 4 → multiple up to 2, single 4

Source: AMQP 0-9-1, basic.ack.
"""

from __future__ import annotations

from collections import deque


class Acks:
    """The unsettled deliveries of one channel."""

    def __init__(self) -> None:
        self._order: deque[int] = deque()
        self._settled: set[int] = set()    # settled, but behind an unsettled one
        self._unsent: list[int] = []       # acked since the last `take`

    @property
    def open(self) -> int:
        """Deliveries nobody has settled yet."""
        return len(self._order) - len(self._settled)

    def delivered(self, tag: int) -> None:
        self._order.append(tag)

    def acked(self, tag: int) -> None:
        self._settled.add(tag)
        self._unsent.append(tag)

    def rejected(self, tag: int) -> None:
        """Settled by a frame of its own, already sent."""
        self._settled.add(tag)

    def take(self) -> tuple[int, list[int]]:
        """What to send now: the tag to ack with `multiple` (0: none), and the tags to ack one by one."""
        last = 0
        while self._order and self._order[0] in self._settled:
            last = self._order.popleft()
            self._settled.discard(last)
        unsent, self._unsent = self._unsent, []
        prefix = max((tag for tag in unsent if tag <= last), default=0)
        return prefix, [tag for tag in unsent if tag > last]
