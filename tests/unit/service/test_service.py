"""A service's declaration: what is refused before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from eventplat.errors import BadHandler, ServiceError
from eventplat.messages.message import Command, Event, Query
from eventplat.service.context import Context
from eventplat.service.service import Service


class Operation(Query[int], name="shop.operation"):
    pass


class Replies(Command[None], name="shop.replies"):
    pass


class Dead(Command[None], name="shop.dead"):
    pass


class Paid(Event):
    pass


@pytest.mark.parametrize("message", [Operation, Replies, Dead])
def test_a_message_whose_queue_would_be_one_of_the_platforms_is_refused(message: Any) -> None:
    shop = Service("shop")

    @shop.handles(message)
    async def handle(message: Any, ctx: Context) -> None: ...

    with pytest.raises(BadHandler, match=rf"{message.__name__}: '{message.wire.owner}\.{message.wire.name}' is the name of a queue"):
        shop.check()


def test_a_handler_named_like_a_queue_of_the_platform_is_refused() -> None:
    shop = Service("shop")

    @shop.on(Paid, name="dead")
    async def bury(event: Paid, ctx: Context) -> None: ...

    with pytest.raises(BadHandler, match=r"'shop\.dead'"):
        shop.check()


@pytest.mark.parametrize("name", ["reply", "gateway"])
def test_a_service_named_like_something_of_the_platform_is_refused(name: str) -> None:
    with pytest.raises(ServiceError, match=f"'{name}' names something of the platform"):
        Service(name)
