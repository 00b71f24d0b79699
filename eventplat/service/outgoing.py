"""Outgoings: everything a process needs to commit and send in one service's name.

Database, ownership, dispatch, relay and transactions, started and stopped together: the half that a
running service and a `Client` share.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import MetaData

from eventplat.broker.topology import Names
from eventplat.broker.transport import Transport
from eventplat.clock import Clock
from eventplat.messages.ids import Chance
from eventplat.messages.message import Message
from eventplat.service.service import Service
from eventplat.settings import Settings
from eventplat.storage.database import Database
from eventplat.storage.migrate import check, create_tables, upgrade
from eventplat.transactions.dispatch import Dispatcher
from eventplat.transactions.owner import Owner
from eventplat.transactions.relay import Relay
from eventplat.transactions.unit_of_work import Sender, Transactions


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
        self.database = Database(settings.database(name), service=name, clock=clock, pool_size=settings.database_pool_size)
        self.sender = Sender(name, Names(settings.prefix), clock, chance, owners, user_id=settings.broker_user())
        self.owner = Owner(
            self.database, name, new_id=self.sender.new_id, term_s=settings.process_term_s, clock=clock,
            is_only=settings.is_embedded and is_alone,
        )
        self.dispatcher = Dispatcher(self.database, transport, self.sender.names, self.owner, clock)
        self.relay = Relay(self.database, self.owner, self.dispatcher, clock)
        self.transactions = Transactions(self.database, self.sender, self.owner, self.dispatcher, self.relay, transport)

    async def start(self, tables: MetaData | None = None) -> None:
        """Check the tables, or make them where the profile does so; then own, dispatch and relay."""
        if self._settings.declares_at_start:
            await upgrade(self.database)
            if tables is not None:
                await create_tables(self.database, tables)
        else:
            await check(self.database)
        await self.owner.start()
        await self.dispatcher.start()
        await self.relay.start()

    async def stop(self) -> None:
        await self.relay.stop()
        await self.dispatcher.stop()
        await self.owner.stop()
        await self.database.close()
