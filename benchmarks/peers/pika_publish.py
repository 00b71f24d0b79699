"""pika alone, asynchronous with publisher confirms as in its "asynchronous publisher example"; a window of unconfirmed messages."""

from __future__ import annotations

from typing import Any

import pika
from pika.adapters.asyncio_connection import AsyncioConnection

from benchmarks.program import Meter, job, order_body

given = job()
meter = Meter(given)
unconfirmed: set[int] = set()
sent = 0


def on_open(connection: AsyncioConnection) -> None:
    connection.channel(on_open_callback=on_channel)


def on_channel(channel: Any) -> None:
    channel.confirm_delivery(lambda frame: on_confirm(channel, frame.method), callback=lambda _: fill(channel))


def fill(channel: Any) -> None:
    global sent
    properties = pika.BasicProperties(content_type="application/json", delivery_mode=2)
    while sent < given.total and len(unconfirmed) < given.window:
        channel.basic_publish("", given.queue, order_body(sent), properties, mandatory=True)
        sent += 1
        unconfirmed.add(sent)


def on_confirm(channel: Any, method: Any) -> None:
    if not isinstance(method, pika.spec.Basic.Ack):
        raise SystemExit("not confirmed")
    settled = {tag for tag in unconfirmed if tag <= method.delivery_tag} if method.multiple else {method.delivery_tag}
    unconfirmed.difference_update(settled)
    if meter.tick(len(settled)):
        channel.connection.ioloop.stop()
    fill(channel)


connection = AsyncioConnection(pika.URLParameters(given.amqp), on_open_callback=on_open)
connection.ioloop.run_forever()
meter.report()
