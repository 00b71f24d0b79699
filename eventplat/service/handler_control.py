"""Handler control: how a service's handlers stand, and pausing and resuming them, for an operator.

    async with Client("shop") as client:
        await client.handlers.pause("shop.on-order-placed", reason="the bank is down")

A pause is a row in the service's database (`transactions.pauses`): within a few seconds no instance takes or retries
anything for that handler, over restarts, until it is resumed. Its messages wait in their queue.

Next: transactions.pauses
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from eventplat.errors import NoSuchHandler
from eventplat.service.dead_letters import operator
from eventplat.storage.database import Database
from eventplat.transactions import dead_letters, pauses
from eventplat.transactions.dead_letters import Standing
from eventplat.transactions.pauses import Pause
from eventplat.transactions.pending import PendingState


@dataclass(frozen=True)
class HandlerState:
    """How one handler stands.

    Attributes:
        pause: Since when, by whom and why it waits; None while it runs.
        standing: Its messages that are not settled, by state; not those in its queue.
    """

    name: str
    pause: Pause | None = None
    standing: Mapping[PendingState, Standing] = field(default_factory=dict)

    def count(self, state: PendingState) -> int:
        return self.standing[state].count if state in self.standing else 0

    @property
    def due(self) -> int:
        """Retries whose time has come."""
        return sum(self.standing[state].due for state in ("retry", "isolated") if state in self.standing)

    @property
    def oldest_us(self) -> int | None:
        """When the oldest message that is not settled was created."""
        return min((standing.oldest_us for standing in self.standing.values()), default=None)


class HandlerControl:
    """The handlers of the service whose database this is.

    Args:
        by: Who acts; default: the user of this process.
    """

    def __init__(self, database: Database, *, by: str | None = None) -> None:
        self._database, self.by = database, by or operator()

    async def list(self) -> Mapping[str, HandlerState]:
        """The handlers that are paused or have messages that are not settled, by name; all others run and have none."""
        async with self._database.transaction(read_only=True) as connection:
            paused = await pauses.paused(connection)
            standings = await dead_letters.standings(connection)
        by_state: dict[str, dict[PendingState, Standing]] = {name: {} for name in paused}
        for standing in standings:
            by_state.setdefault(standing.handler, {})[standing.state] = standing
        return {name: HandlerState(name, paused.get(name), by_state[name]) for name in sorted(by_state)}

    async def pause(self, handler: str, *, reason: str = "") -> bool:
        """Let `handler` wait, in every instance of the service; False where it does already.

        Args:
            handler: Its identity, as "shop.add" or "shop.on-order-placed".

        Raises:
            NoSuchHandler: It is another service's.
        """
        self._check(handler)
        async with self._database.transaction() as connection:
            return await pauses.pause(connection, handler, by=self.by, reason=reason)

    async def resume(self, handler: str) -> bool:
        """Let `handler` go on; False where it was not paused.

        Raises:
            NoSuchHandler: It is another service's.
        """
        self._check(handler)
        async with self._database.transaction() as connection:
            return await pauses.resume(connection, handler)

    def _check(self, handler: str) -> None:
        if handler.partition(".")[0] != self._database.service or not handler.partition(".")[2]:
            raise NoSuchHandler(f"{handler!r} is no handler of {self._database.service}")
