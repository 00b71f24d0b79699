"""What every measured program shares: its job comes as JSON, its figures leave as JSON. Standard library only.

A program runs in a process of its own, ours and the peers' alike: it does `warm` messages that are not counted, then
`count` that are. Peers live in a virtual environment of their own, so nothing here may import eventplat.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import dataclass, field, fields
from typing import Any

BODY_BYTES = 512
SKUS = 1_000
NOTE = "x" * 449         # fills an order up


@dataclass
class Job:
    """What a program is to do."""

    amqp: str = ""
    postgres: str = ""
    queue: str = ""
    count: int = 1_000
    warm: int = 0
    window: int = 128                # unconfirmed, unacked or unanswered at a time
    batch: int = 1
    variant: str = ""                # which handler, which peer's way
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Messages in all."""
        return self.warm + self.count

    def text(self) -> str:
        """As a program's argument."""
        return json.dumps({each.name: getattr(self, each.name) for each in fields(self)})


def job() -> Job:
    """The job that this program was started with."""
    return Job(**json.loads(sys.argv[1]))


def order(number: int) -> dict[str, Any]:
    """The fields of message `number`; as JSON they are 512 bytes."""
    return {"order_id": f"o-{number:08}", "sku": f"s-{number * 7 % SKUS:04}", "quantity": 1, "note": NOTE}


def order_body(number: int) -> bytes:
    """Message `number` as JSON."""
    return json.dumps(order(number), separators=(",", ":")).encode()


class Meter:
    """Counts what is done, and takes the time of all but the first `warm`."""

    def __init__(self, given: Job) -> None:
        self._given = given
        self.done = 0
        self._began = self._ended = self._cpu_began = self._cpu_ended = 0.0
        if not given.warm:
            self._begin()

    def tick(self, count: int = 1) -> bool:
        """`count` more are done; whether that was all."""
        before, self.done = self.done, self.done + count
        if before < self._given.warm <= self.done:
            self._begin()
        if before < self._given.total <= self.done:
            self.end()
            return True
        return False

    def end(self) -> None:
        """The last one is done, now; called again, only now."""
        self._ended, self._cpu_ended = time.perf_counter(), _cpu_s()

    def report(self, **more: Any) -> None:
        """Print the figures."""
        seconds, count = self._ended - self._began, self._given.count
        cpu_us = (self._cpu_ended - self._cpu_began) / count * 1e6
        print(json.dumps({"rate": count / seconds, "seconds": seconds, "cpu_us": cpu_us, **more}), flush=True)

    def _begin(self) -> None:
        self._began, self._cpu_began = time.perf_counter(), _cpu_s()


def spread(seconds: list[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds."""
    ordered = sorted(seconds)
    return {
        name: ordered[min(int(len(ordered) * part), len(ordered) - 1)] * 1_000 for name, part in (("p50_ms", 0.5), ("p99_ms", 0.99))
    }


def _cpu_s() -> float:
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
