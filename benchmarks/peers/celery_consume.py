"""Celery consuming: quorum queue, late acks, a pydantic model per task, one prefork worker process per processor."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time

from celery import Celery
from pydantic import BaseModel

from benchmarks.program import Meter, job, order


class Order(BaseModel):
    order_id: str
    sku: str
    quantity: int
    note: str


given = job()
done = multiprocessing.Value("i", 0)
app = Celery("bench", broker=given.amqp)
app.conf.update(
    task_default_queue=given.queue, task_default_queue_type="quorum", task_ignore_result=True, task_acks_late=True,
    worker_detect_quorum_queues=True, worker_prefetch_multiplier=given.window // 2, broker_transport_options={"confirm_publish": True},
    worker_hijack_root_logger=False, worker_redirect_stdouts=False,   # our figures are what it prints
)  # fmt: skip


@app.task(pydantic=True, name="consume")
def consume(order: Order) -> None:
    with done.get_lock():
        done.value += 1


def watch() -> None:
    meter = Meter(given)
    while meter.done < given.total:
        time.sleep(0.002)
        meter.tick(done.value - meter.done)
    meter.report()
    os._exit(0)


for number in range(given.total):
    consume.delay(order=order(number))
threading.Thread(target=watch).start()
app.worker_main(["worker", "--loglevel=ERROR", "--concurrency=2", "--without-gossip", "--without-mingle"])
