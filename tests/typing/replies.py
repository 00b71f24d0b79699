"""What a type checker infers of messages, handlers, sagas and clients: checked, never run.

mypy --strict and pyright both read this file; a wrong handler is an error here before it is one anywhere else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, assert_type

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from eventplat import Client, Command, Context, Event, Key, Properties, Query, Saga, Service, SyncContext
from eventplat.testing.harness import Harness


class Reservation(BaseModel):
    left: int


class Reserve(Command[Reservation], name="stock.reserve"):
    order_id: Key[str]
    quantity: int


class Release(Command[None], name="stock.release"):
    order_id: Key[str]


class Levels(Query[list[Reservation]], name="stock.levels"):
    sku: str


class Placed(Event):
    order_id: Key[str]


@dataclass
class State:
    warehouse: str


@asynccontextmanager
async def lifespan() -> AsyncIterator[State]:
    yield State("north")


stock = Service("stock", lifespan=lifespan)
plain = Service("plain")


@stock.handles(Reserve, http="POST /reservations")
async def reserve(command: Reserve, ctx: Context[State]) -> Reservation:
    assert_type(command.order_id, str)
    assert_type(ctx.state, State)
    assert_type(ctx.db, AsyncSession)
    assert_type(ctx.publish(Placed(order_id=command.order_id)), str)
    return Reservation(left=command.quantity)


@stock.handles(Levels)
def levels(query: Levels, ctx: SyncContext[State]) -> list[Reservation]:
    assert_type(ctx.db, Session)
    return []


@plain.on(Placed)
async def placed(event: Placed, ctx: Context) -> None:
    assert_type(ctx.state, None)
    assert_type(event.order_id, str)


@stock.handles(Reserve)  # type: ignore[arg-type]
async def answers_another_type(command: Reserve, ctx: Context[State]) -> int:  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
    return 1


class PlacedV2(Event, name="placed", version=2):
    order_id: Key[str]
    currency: str


@PlacedV2.upcasts(Placed)
def in_pounds(old: Placed) -> PlacedV2:
    return PlacedV2(order_id=old.order_id, currency="GBP")


@PlacedV2.upcasts(Placed)  # type: ignore[arg-type]
def makes_another_class(old: Placed) -> Placed:  # pyright: ignore[reportArgumentType, reportUntypedFunctionDecorator]
    return old


class LegacyOrder(BaseModel):
    number: int


def length(body: bytes, properties: Properties) -> int:
    return len(body)


@stock.consume(queue="legacy.orders", decode=LegacyOrder, id=lambda order: order.number)
async def legacy(order: LegacyOrder, ctx: Context[State]) -> None:
    assert_type(order.number, int)
    assert_type(ctx.send_raw(routing_key="legacy.done", body=b"1", headers={"n": 1}), str)


@plain.consume(queue="legacy.lengths", decode=length, id="correlation_id")
async def lengths(number: int, ctx: Context) -> None:
    assert_type(number, int)


@plain.consume(queue="legacy.json")
def anything(message: dict[str, Any], ctx: SyncContext) -> None:
    assert_type(ctx.db, Session)


@plain.consume(queue="legacy.lengths", decode=length)  # type: ignore[arg-type]
async def takes_another_type(text: str, ctx: Context) -> None: ...  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]


@plain.saga(Reserve)
async def saga(command: Reserve, saga: Saga) -> Reservation:
    reserved = await saga.call(command, undo=Release(order_id=command.order_id))
    assert_type(reserved, Reservation)
    assert_type(await saga.call(Release(order_id="1")), None)
    both = await saga.gather(saga.call(Levels(sku="a")), saga.call(command))
    assert_type(both, tuple[list[Reservation], Reservation])
    return reserved


async def outside() -> None:
    async with Client("orders") as client:
        assert_type(await client.ask(Levels(sku="a")), list[Reservation])
        assert_type(await client.ask(Reserve(order_id="1", quantity=1)), Reservation)
        async with client.transaction() as tx:
            assert_type(tx.db, AsyncSession)
            assert_type(tx.send(Release(order_id="1")), str)
    async with Harness(stock, plain) as harness:
        assert_type(await harness.ask(Reserve(order_id="1", quantity=1)), Reservation)
        assert_type(harness.published(Placed), list[Placed])


async def as_in_a_unit_test(ctx: Context[State]) -> None:
    assert_type(await reserve(Reserve(order_id="1", quantity=1), ctx), Reservation)
