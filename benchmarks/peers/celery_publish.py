"""Celery sending tasks: quorum queue, `confirm_publish`, one at a time as `delay` does it."""

from __future__ import annotations

from typing import Any

from celery import Celery

from benchmarks.program import Meter, job, order

given = job()
meter = Meter(given)
app = Celery("bench", broker=given.amqp)
app.conf.update(
    task_default_queue=given.queue, task_default_queue_type="quorum", task_ignore_result=True,
    broker_transport_options={"confirm_publish": True},
)  # fmt: skip


@app.task
def consume(**_: Any) -> None: ...


for number in range(given.total):
    consume.delay(**order(number))
    meter.tick()
meter.report()
