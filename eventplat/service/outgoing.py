"""Outgoings: everything a process needs to commit and send in one service's name.

Database, ownership, dispatch, relay and transactions, started and stopped together: the half that a
running service and a `Client` share. A service also looks after its held events and old rows. What keeps the
process alive and its messages moving has connections of its own: handlers may take all of the others.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import MetaData

from eventplat.broker.topology import Names
from eventplat.broker.transport import Transport
from eventplat.clock import Clock
from eventplat.lifecycle import Component, stop_all
from eventplat.messages.ids import Chance
from eventplat.messages.message import Message
from eventplat.service.service import Service
from eventplat.settings import Settings
from eventplat.storage.database import Database
from eventplat.storage.migrate import check, create_tables, has_branch, upgrade, upgrade_service
from eventplat.storage.postgres import IDLE_S
from eventplat.transactions.answers import Answers
from eventplat.transactions.dispatch import Dispatcher
from eventplat.transactions.held import Held
from eventplat.transactions.owner import Owner
from eventplat.transactions.relay import Relay
from eventplat.transactions.retention import Retention
from eventplat.transactions.sender import Sender
from eventplat.transactions.unit_of_work import Transactions
from eventplat.transactions.unrouted import Unrouted

OWN_CONNECTIONS = 2
SPARE_S = 15.0  # of an open transaction, over the longest time that a handler may take


class Outgoings:
    """The sending half of a service in this process.

    Args:
        is_alone: Nobody else in this process acts in the service's name; in the embedded mode that means nobody at all.
    """

    def __init__(
        self,
        service: Service[Any] | str,
        settings: Settings,
        transport: Transport,
        *,
        owners: dict[type[Message], str],
        clock: Clock,
        chance: Chance,
        is_alone: bool = True,
    ) -> None:
        name = service if isinstance(service, str) else service.name
        self._settings = settings
        pool_size = settings.database_pool_size
        self.database = Database(settings.database(name), service=name, clock=clock, pool_size=pool_size, idle_s=_idle_s(service))
        self.apart = self.database.apart(OWN_CONNECTIONS)    # the same database, where nobody waits behind handlers
        self.sender = Sender(name, Names(settings.prefix), clock, chance, owners, user_id=settings.broker_user())
        self.owner = Owner(
            self.apart, name, new_id=self.sender.new_id, term_s=settings.process_term_s, clock=clock,
            is_only=settings.is_embedded and is_alone,
        )
        self.dispatcher = Dispatcher(self.apart, transport, self.sender.names, self.owner, clock)
        self.relay = Relay(self.apart, self.owner, self.dispatcher, clock)
        self.answers = Answers(transport)
        self.transactions = Transactions(self.database, self.sender, self.owner, self.dispatcher, self.relay, self.answers)
        self._parts: list[Component] = [self.owner, self.dispatcher, self.relay]
        self.unrouted = Unrouted(self.apart, self.owner, self.dispatcher, name, clock)
        self.held = Held(self.apart, clock)
        if not isinstance(service, str):
            self._parts.append(self.unrouted)
            retained = {"inbox_s": settings.inbox_retention_s, "event_log_s": settings.event_log_retention_s}
            self._parts += [self.held, Retention(self.apart, clock, **retained)]

    async def start(self, tables: MetaData | None = None) -> None:
        """Check the tables, or make them where the profile does so; then own, dispatch and relay."""
        if self._settings.declares_at_start:
            await upgrade(self.database)
            if tables is not None:
                await self._make(tables)
        else:
            await check(self.database)
        for part in self._parts:
            await part.start()

    async def stop(self) -> None:
        await stop_all(self._parts)
        await self.apart.close()
        await self.database.close()

    async def _make(self, tables: MetaData) -> None:
        migrations, service = self._settings.migrations_dir, self.database.service
        if migrations is not None and has_branch(migrations, service):
            await upgrade_service(self.database, migrations, service, tables)
        else:
            await create_tables(self.database, tables)


def _idle_s(service: Service[Any] | str) -> float:
    """How long a transaction may stand open between two statements: as long as the slowest handler may take."""
    handlers = [] if isinstance(service, str) else service.handlers
    return max([IDLE_S, *(handler.timeout_s + SPARE_S for handler in handlers)])
