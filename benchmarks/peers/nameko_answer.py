"""nameko answering: an `@rpc` method, ten workers as by default, then 64."""

import eventlet

eventlet.monkey_patch()

from nameko.containers import ServiceContainer
from nameko.rpc import rpc

from benchmarks.program import job

given = job()


class Prices:
    name = given.queue

    @rpc
    def price(self, order_id, sku, quantity, note):  # type: ignore[no-untyped-def]
        return {"sku": sku, "note": note}


container = ServiceContainer(Prices, config={"AMQP_URI": given.amqp, "max_workers": 64, "serializer": "json"})
container.start()
print("ready", flush=True)
container.wait()
