"""Suites: which programs are measured side by side, on what, and which ratios eventplat is held to.

A row is one program in one configuration. Rows of a suite are run in one go, in alternating order, so that whatever
else the machine does meets all of them; a ratio is of two rows of one suite, round by round. A bar is the least that
ratio may be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmarks.program import Job
from benchmarks.stage import Stage

C_CLIENT = "limit.c"
TAKEN = "bench.taken.#"
Prepare = Callable[[Stage, Job], None]


@dataclass(frozen=True)
class Row:
    """One program in one configuration."""

    name: str
    program: str                       # below benchmarks/, as "peers/pika_publish"; or limit.c
    count: int                         # messages that are timed
    prepare: Prepare
    window: int = 128
    batch: int = 1
    variant: str = ""
    warm: float = 0.2                  # of `count`, before it
    beside: str = ""                   # a program that runs meanwhile

    @property
    def is_ours(self) -> bool:
        return self.program.startswith("ours/")

    def job(self, share: float) -> Job:
        """What its program is to do, with `share` of the messages."""
        count = max(int(self.count * share), 20)
        return Job(count=count, warm=int(count * self.warm), window=self.window, batch=self.batch, variant=self.variant)


@dataclass(frozen=True)
class Bar:
    """What a ratio has to reach."""

    row: str
    peer: str
    least: float


@dataclass(frozen=True)
class Suite:
    """Rows that are measured together."""

    name: str
    title: str
    rows: tuple[Row, ...]
    bars: tuple[Bar, ...] = ()
    figure: Literal["rate", "p50_ms"] = "rate"


def empty_queue(stage: Stage, job: Job) -> None:
    """A new quorum queue."""
    job.queue = stage.queue()


def our_queue(stage: Stage, job: Job) -> None:
    """Our event's own queue, bound to the exchange of events."""
    job.queue = stage.our_queue("consume")


def full_queue(stage: Stage, job: Job) -> None:
    """A quorum queue with what the program is to consume."""
    job.queue = stage.queue()
    stage.fill(job.queue, job.total)
    job.options["left"] = 0


def our_full_queue(stage: Stage, job: Job) -> None:
    """As `full_queue`, the queue of our handler."""
    job.queue = stage.our_queue("consume")
    stage.fill(job.queue, job.total)
    job.options["left"] = 0


def nothing(stage: Stage, job: Job) -> None:
    """The programs declare what they need, under a name of their own."""
    job.queue = stage.name()


PUBLISH = Suite(
    "publish", "publish, confirmed: 512 bytes, quorum queue, persistent, mandatory",
    (
        Row("eventplat, batches", "ours/publish", 30_000, our_queue, 1_024, variant="batches"),
        Row("C client, window 1,024", C_CLIENT, 60_000, empty_queue, 1_024),
        Row("eventplat, a future each", "ours/publish", 20_000, our_queue, 128),
        Row("C client, window 128", C_CLIENT, 60_000, empty_queue, 128),
        Row("pika, window 1,024", "peers/pika_publish", 15_000, empty_queue, 1_024),
        Row("FastStream, 128 in flight", "peers/faststream_publish", 6_000, empty_queue, 128),
        Row("aio-pika, 128 in flight", "peers/aio_pika_publish", 8_000, empty_queue, 128),
        Row("Celery", "peers/celery_publish", 1_500, empty_queue, 1),
        Row("dramatiq", "peers/dramatiq_publish", 1_500, nothing, 1),
    ),
    (
        Bar("eventplat, batches", "FastStream, 128 in flight", 4),
        Bar("eventplat, batches", "C client, window 1,024", 0.6),
        Bar("eventplat, a future each", "FastStream, 128 in flight", 3),
        Bar("eventplat, a future each", "C client, window 128", 0.45),
    ),
)  # fmt: skip

CONSUME = Suite(
    "consume", "consume with a typed handler, acked: 512 bytes, quorum queue",
    (
        Row("eventplat", "ours/consume", 30_000, our_full_queue, 500),
        Row("C client, nothing decoded", C_CLIENT, 80_000, full_queue, 500, variant="consume"),
        Row("pika", "peers/pika_consume", 10_000, full_queue, 500),
        Row("FastStream", "peers/faststream_consume", 6_000, full_queue, 500),
        Row("aio-pika", "peers/aio_pika_consume", 10_000, full_queue, 500),
        Row("Celery", "peers/celery_consume", 2_000, empty_queue, 500),
        Row("dramatiq", "peers/dramatiq_consume", 2_000, nothing, 500),
    ),
    (Bar("eventplat", "FastStream", 6),),
)  # fmt: skip



def _exactly_once(stage: Stage, job: Job) -> None:
    job.postgres = stage.database()
    job.options["out"] = stage.queue(bound_to=TAKEN)


def our_exactly_once(workers: int) -> Prepare:
    """As `our_full_queue`, with a database, and a queue for the events that come out."""

    def prepare(stage: Stage, job: Job) -> None:
        our_full_queue(stage, job)
        _exactly_once(stage, job)
        job.options["workers"] = workers

    return prepare


def exactly_once(stage: Stage, job: Job) -> None:
    """As `full_queue`, with a database, and a queue for the events that come out."""
    full_queue(stage, job)
    _exactly_once(stage, job)


def with_database(stage: Stage, job: Job) -> None:
    """A queue and a database for the rows that become messages."""
    job.postgres = stage.database()
    job.queue = stage.queue(bound_to=TAKEN)


def at_a_rate(prepare: Prepare) -> Prepare:
    """As `prepare`, with a database, and 100 messages a second."""

    def rated(stage: Stage, job: Job) -> None:
        prepare(stage, job)
        job.postgres, job.options["rate"] = stage.database(), 100

    return rated


def our_database(stage: Stage, job: Job) -> None:
    """A database for a service that is asked."""
    job.postgres = stage.database()


EXACTLY_ONCE = Suite(
    "exactly-once", "exactly once: inbox, effect and one event out, 512 bytes, quorum queue, PostgreSQL with fsync",
    (
        Row("eventplat, db.add, batch=200", "ours/exactly_once", 12_000, our_exactly_once(2), batch=200, variant="add"),
        Row("by hand on FastStream, add", "peers/faststream_exactly_once", 800, exactly_once, 16, variant="add", warm=0.5),
        Row("eventplat, a statement, batch=50", "ours/exactly_once", 6_000, our_exactly_once(2), batch=50, variant="statement"),
        Row("by hand on FastStream, a statement", "peers/faststream_exactly_once", 800, exactly_once, 16, variant="statement", warm=0.5),
        Row("eventplat, read and update, batch=50", "ours/exactly_once", 4_000, our_exactly_once(1), batch=50, variant="update"),
        Row("by hand on FastStream, read and update", "peers/faststream_exactly_once", 600, exactly_once, 16, variant="update", warm=0.5),
        Row("eventplat, db.add, unbatched", "ours/exactly_once", 1_200, our_exactly_once(16), variant="add"),
    ),
    (
        Bar("eventplat, db.add, batch=200", "by hand on FastStream, add", 8),
        Bar("eventplat, a statement, batch=50", "by hand on FastStream, a statement", 4),
        Bar("eventplat, read and update, batch=50", "by hand on FastStream, read and update", 3),
        Bar("eventplat, db.add, unbatched", "by hand on FastStream, add", 1.3),
    ),
)  # fmt: skip

ASK = Suite(
    "ask", "request and reply: 512 bytes each way, two processes",
    (
        Row("eventplat, 64 in flight", "ours/ask", 8_000, nothing, 64, beside="ours/answer"),
        Row("eventplat with a database, 64", "ours/ask", 3_000, our_database, 64, variant="database", beside="ours/answer"),
        Row("aio-pika RPC, 64", "peers/aio_pika_ask", 2_500, nothing, 64, beside="peers/aio_pika_answer"),
        Row("FastStream request, 64", "peers/faststream_ask", 600, nothing, 64, beside="peers/faststream_answer"),
        Row("nameko rpc, 64", "peers/nameko_ask", 800, nothing, 64, beside="peers/nameko_answer"),
        Row("eventplat, 1 in flight", "ours/ask", 1_200, nothing, 1, beside="ours/answer"),
        Row("aio-pika RPC, 1", "peers/aio_pika_ask", 500, nothing, 1, beside="peers/aio_pika_answer"),
        Row("FastStream request, 1", "peers/faststream_ask", 400, nothing, 1, beside="peers/faststream_answer"),
        Row("nameko rpc, 1", "peers/nameko_ask", 400, nothing, 1, beside="peers/nameko_answer"),
    ),
    (Bar("eventplat, 64 in flight", "aio-pika RPC, 64", 4),),
)  # fmt: skip

DRAIN = Suite(
    "drain", "outbox drain: rows of a dead process, published, confirmed, deleted",
    (
        Row("eventplat relay", "ours/drain", 20_000, with_database),
        Row("eventplat, publish alone", "ours/publish", 30_000, our_queue, 1_024, variant="batches"),
        Row("by hand on asyncpg and aio-pika", "peers/aio_pika_drain", 5_000, with_database),
    ),
    (Bar("eventplat relay", "eventplat, publish alone", 0.6),),
)  # fmt: skip

LATENCY = Suite(
    "latency", "from commit to handler, 100 messages a second",
    (
        Row("eventplat", "ours/latency", 300, at_a_rate(our_queue)),
        Row("LISTEN/NOTIFY relay by hand", "peers/relay_latency", 300, at_a_rate(empty_queue), variant="notify"),
        Row("relay that polls every 100 ms", "peers/relay_latency", 300, at_a_rate(empty_queue), variant="poll"),
    ),
    (Bar("eventplat", "LISTEN/NOTIFY relay by hand", 1), Bar("eventplat", "relay that polls every 100 ms", 10)),
    figure="p50_ms",
)  # fmt: skip

SUITES = {suite.name: suite for suite in (PUBLISH, CONSUME, EXACTLY_ONCE, ASK, DRAIN, LATENCY)}
