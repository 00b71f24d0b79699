"""Copies: somebody who publishes again what was published, as a producer does that never heard its confirm.

It listens to the events exchange beside the handlers and sends some of what it hears once more: same id, same properties,
same bytes, now or much later. It knows RabbitMQ and nothing of eventplat.
"""

from __future__ import annotations

import contextlib
import threading
from random import Random
from typing import Any

import pika
from pika.exceptions import AMQPError

EVERY_S = 0.1
AT_ONCE = 20
KEPT = 2_000           # older messages to choose from
HEARD_MAX = 1_000      # that wait to be looked at; the others are dropped


class Copier:
    """Publishes copies in a thread of its own until their number reaches what is asked for."""

    def __init__(self, url: str, exchange: str, chance: Random) -> None:
        self._url, self._exchange, self._chance = url, exchange, chance
        self._kept: list[tuple[Any, Any, bytes]] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="copies")
        self.wanted = self.count = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        if self._thread.ident is not None:  # it was started
            self._thread.join()

    def _run(self) -> None:
        while not self._is_over.is_set():
            with contextlib.suppress(AMQPError, OSError):  # the broker is away
                link = pika.BlockingConnection(pika.URLParameters(self._url))
                with contextlib.closing(link):
                    self._copy(link)
            self._is_over.wait(0.5)

    def _copy(self, link: Any) -> None:
        channel = link.channel()
        queue = channel.queue_declare("", exclusive=True, arguments={"x-max-length": HEARD_MAX}).method.queue
        channel.queue_bind(queue, self._exchange, "#")
        while not self._is_over.is_set():
            for _ in range(AT_ONCE):
                heard = channel.basic_get(queue, auto_ack=True)
                if heard[0] is None:
                    break
                self._kept = [heard, *self._kept[: KEPT - 1]]
            for _ in range(min(AT_ONCE, self.wanted - self.count) if self._kept else 0):
                method, properties, body = self._chance.choice(self._kept)
                channel.basic_publish(self._exchange, method.routing_key, body, properties)
                self.count += 1
            link.sleep(EVERY_S)
