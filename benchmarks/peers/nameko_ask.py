"""nameko asking: `ClusterRpcProxy`, with `call_async` where several are in flight."""

import eventlet

eventlet.monkey_patch()

import time
from collections import deque
from typing import Any

from nameko.standalone.rpc import ClusterRpcProxy

from benchmarks.program import Meter, job, order, spread

given = job()
meter = Meter(given)
took: list[float] = []
with ClusterRpcProxy({"AMQP_URI": given.amqp, "serializer": "json"}) as rpc:
    asked: deque[tuple[float, Any]] = deque()
    for number in range(given.total + given.window):
        if number >= given.window:
            began, answer = asked.popleft()
            answer.result()
            took.append(time.perf_counter() - began)
            meter.tick()
        if number < given.total:
            asked.append((time.perf_counter(), rpc[given.queue].price.call_async(**order(number))))
meter.report(**spread(took[given.warm :]))
