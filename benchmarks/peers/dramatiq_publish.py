"""dramatiq sending messages: `confirm_delivery`, one at a time; its queues are classic and durable."""

from __future__ import annotations

from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from benchmarks.program import Meter, job, order

given = job()
meter = Meter(given)
dramatiq.set_broker(RabbitmqBroker(url=given.amqp, confirm_delivery=True))


@dramatiq.actor(queue_name=given.queue)
def consume(**_: Any) -> None: ...


for number in range(given.total):
    consume.send(**order(number))
    meter.tick()
meter.report()
