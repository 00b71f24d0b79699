"""pika alone, BlockingConnection, acked one by one, a pydantic model per message."""

from __future__ import annotations

from typing import Any

import pika
from pydantic import BaseModel

from benchmarks.program import Meter, job


class Order(BaseModel):
    order_id: str
    sku: str
    quantity: int
    note: str


given = job()
meter = Meter(given)


def on_message(channel: Any, method: Any, _: Any, body: bytes) -> None:
    Order.model_validate_json(body)
    channel.basic_ack(method.delivery_tag)
    if meter.tick():
        channel.stop_consuming()


connection = pika.BlockingConnection(pika.URLParameters(given.amqp))
channel = connection.channel()
channel.basic_qos(prefetch_count=given.window)
channel.basic_consume(given.queue, on_message)
channel.start_consuming()
connection.close()
meter.report()
