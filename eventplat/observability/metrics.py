"""Metrics: what this process counts, by name, for Prometheus.

They live in prometheus-client's own registry, so that a program's other metrics are scraped with them. Labels are bounded: handlers,
queues and outcomes that a release declares, never a message's id, key or reason.

Links       a connection to the broker: up, blocked by an alarm, lost and how often
Consumers   lost and taken up again
Messages    sent and how the broker took them; handled and how long it took; failed and what follows
Outbox      what waits to be sent, and events for which there was no queue

Next: observability.monitor
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

LINK_UP = Gauge("eventplat_broker_link_up", "1 while this connection to the broker stands", ["link"])
LINK_BLOCKED = Gauge("eventplat_broker_link_blocked", "1 while an alarm of the broker keeps this connection from publishing", ["link"])
LINKS_LOST = Counter("eventplat_broker_links_lost", "Times that this connection was lost", ["link"])
CONSUMERS_LOST = Counter("eventplat_consumers_lost", "Times that the consumer of this queue was lost and taken up again", ["queue"])

PUBLISHED = Counter("eventplat_messages_published", "Messages that the broker has settled", ["outcome"])
FAILURES = Counter("eventplat_messages_failed", "Attempts that failed, by handler and what follows: retry, dead, isolated, parked",
                   ["handler", "follows"])  # fmt: skip
HANDLING = Histogram(
    "eventplat_handling_seconds", "From delivery to settlement, of one message or one batch", ["queue"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)  # fmt: skip

OUTBOX_WAITING = Gauge("eventplat_outbox_waiting", "Committed messages of this process that are not settled yet", ["service"])
UNROUTED = Counter("eventplat_events_unrouted", "Events that had no queue when they were sent; the log keeps them", ["service"])
