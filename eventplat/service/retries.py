"""Retries: run what is due in `pending`, from the database, in any instance.

An attempt is counted first, in a short transaction that also takes the row for as long as the attempt may
last; then the row is locked, claimed, handled and deleted in one transaction. Isolated rows run one at a
time, since one of them may kill its process. Events that were held run in batches where their handler does.

Next: service.pipeline
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from functools import partial

from eventplat.clock import Clock
from eventplat.failpoints import failpoint
from eventplat.lifecycle import Loop
from eventplat.service.batches import Batches
from eventplat.service.endpoint import Endpoint
from eventplat.service.pipeline import Pipeline
from eventplat.transactions import pending
from eventplat.transactions.pending import Pending, PendingState

BATCH = 16
EVERY_S = 1.0
BUSY_S = 0.1   # until what is due is looked at again that another instance has locked
SPARE_S = 5.0  # added to a handler's timeout before another instance may take its row


class Retries:
    """The pending rows of one service's handlers."""

    def __init__(
        self, pipeline: Pipeline, endpoints: Sequence[Endpoint], clock: Clock, *, paused: Callable[[], Collection[str]] = tuple
    ) -> None:
        """`paused`: the identities of handlers whose rows wait."""
        self._pipeline, self._paused = pipeline, paused
        self._database = pipeline.transactions.database
        self._endpoints = {endpoint.identity: endpoint for endpoint in endpoints if endpoint.handler.message.kind != "query"}
        batched = [each for each in self._endpoints.values() if each.handler.ordered and each.handler.batch > 1]
        self._batches = {endpoint.identity: (endpoint.handler.batch, Batches(pipeline, endpoint)) for endpoint in batched}
        self._lease_us = int((max((e.handler.timeout_s for e in self._endpoints.values()), default=60.0) + SPARE_S) * 1_000_000)
        self._loop = Loop("retries", self.run_once, every_s=EVERY_S, clock=clock)
        pipeline.failures.wake_pending = self._loop.wake

    async def start(self) -> None:
        await self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()

    async def run_once(self) -> float | None:
        """Run what is due; returns seconds until something may be due again."""
        if not self._running():
            return None
        wait_s = await self._until_due_s()
        if wait_s > 0:
            return wait_s
        running = self._running()
        retried = await self._take("retry", [name for name in running if name not in self._batches], BATCH)
        batches = {name: await self._take("retry", [name], most) for name, (most, _) in self._batches.items() if name in running}
        await asyncio.gather(*(self._run(row) for row in retried), *(self._run_together(name, rows) for name, rows in batches.items()))
        isolated = await self._take("isolated", running, 1)
        for row in isolated:
            await self._run(row)
        return 0.0 if retried or isolated or any(batches.values()) else await self._until_due_s() or BUSY_S

    async def _until_due_s(self) -> float:
        """Seconds until something is due, at most `EVERY_S`; read without a lock, as most of the time nothing is."""
        async with self._database.transaction(read_only=True) as connection:
            due_us = await pending.next_due_us(connection, self._running())
            now_us = 0 if due_us is None else await self._database.now_us(connection)
        return EVERY_S if due_us is None else min(EVERY_S, max(due_us - now_us, 0) / 1_000_000)

    async def _take(self, state: PendingState, handlers: Sequence[str], limit: int) -> list[Pending]:
        if not handlers:
            return []
        async with self._database.transaction() as connection:
            rows = await pending.count_due(connection, handlers, state, lease_us=self._lease_us, limit=limit)
        if rows:
            failpoint("pending.after_count")
        return rows

    def _running(self) -> list[str]:
        paused = self._paused()
        return [identity for identity in self._endpoints if identity not in paused]

    async def _run_together(self, handler: str, rows: Sequence[Pending]) -> None:
        """Those that were held in a batch; one by one what has failed before, or died with its process."""
        fresh = [row for row in rows if row.attempts == 1 and not row.errors]
        await self._batches[handler][1].run_pending(fresh)
        for row in rows:
            if row.attempts > 1 or row.errors:
                await self._run(row)

    async def _run(self, row: Pending) -> None:
        await self._pipeline.reliably(partial(self._pipeline.run_pending, self._endpoints[row.handler], row))
