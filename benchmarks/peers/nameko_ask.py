"""nameko asking: `ClusterRpcProxy`, with `call_async` where several are in flight."""

import eventlet

eventlet.monkey_patch()

import time  # noqa: E402
from collections import deque  # noqa: E402

from nameko.standalone.rpc import ClusterRpcProxy  # noqa: E402

from benchmarks.program import Meter, job, order, spread  # noqa: E402

given = job()
meter = Meter(given)
took: list[float] = []
with ClusterRpcProxy({"AMQP_URI": given.amqp, "serializer": "json"}) as rpc:
    asked: deque = deque()  # type: ignore[type-arg]
    for number in range(given.total + given.window):
        if number >= given.window:
            began, answer = asked.popleft()
            answer.result()
            took.append(time.perf_counter() - began)
            meter.tick()
        if number < given.total:
            asked.append((time.perf_counter(), rpc[given.queue].price.call_async(**order(number))))
meter.report(**spread(took[given.warm :]))
