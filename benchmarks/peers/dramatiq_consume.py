"""dramatiq consuming: eight worker threads as by default, a pydantic model per message; its queues are classic and durable."""

from __future__ import annotations

import os
import threading
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from pydantic import BaseModel

from benchmarks.program import Meter, job, order

os.environ["dramatiq_queue_prefetch"] = "500"


class Order(BaseModel):
    order_id: str
    sku: str
    quantity: int
    note: str


given = job()
meter = Meter(given)
over, one_at_a_time = threading.Event(), threading.Lock()
broker = RabbitmqBroker(url=given.amqp, confirm_delivery=True)
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=given.queue)
def consume(**fields: Any) -> None:
    Order(**fields)
    with one_at_a_time:
        if meter.tick():
            over.set()


for number in range(given.total):
    consume.send(**order(number))
worker = dramatiq.Worker(broker, worker_threads=8)
worker.start()
over.wait()
meter.report()
worker.stop()
