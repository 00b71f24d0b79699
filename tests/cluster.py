"""Cluster: RabbitMQ nodes on this machine that form one broker; each may be killed and started again by itself."""

from __future__ import annotations

import time
from collections.abc import Collection

from tests.servers import RabbitServer, ServerFailed

CONFIG = "cluster_partition_handling = pause_minority"


class RabbitCluster:
    """`size` nodes on loopback, with one name server and one secret."""

    def __init__(self, size: int = 3) -> None:
        first = RabbitServer(CONFIG)
        self.nodes = [first, *(RabbitServer(CONFIG, beside=first) for _ in range(size - 1))]

    @property
    def url(self) -> str:
        """Of every node, as clients take it."""
        return ",".join(node.url for node in self.nodes)

    def start(self) -> None:
        """Start the nodes and join them."""
        for node in self.nodes:
            node.start()
        for node in self.nodes[1:]:
            node.ctl("stop_app")
            node.ctl("join_cluster", self.nodes[0].node)
            node.ctl("start_app")

    def remove(self) -> None:
        for node in reversed(self.nodes):  # the name server goes with the first
            node.remove()

    def until_dispensable(self, node: RabbitServer, within_s: float) -> None:
        """Wait until every queue would keep its majority without `node`.

        Raises:
            ServerFailed: Not within `within_s` seconds, with what RabbitMQ says.
        """
        deadline = time.monotonic() + within_s
        while True:
            try:
                node.ctl("check_if_node_is_quorum_critical", tool="rabbitmq-queues")
            except ServerFailed:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)
            else:
                return

    def led_by(self, node: RabbitServer, queues: Collection[str]) -> set[str]:
        """Which of `queues` have their leader on `node`."""
        rows = [line.split("\t") for line in node.ctl("list_queues", "name", "leader").splitlines()]
        return {row[0] for row in rows if row[0] in queues and row[-1] == node.node}
