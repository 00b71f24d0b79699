"""The book: what a reader of an order is shown of the saga that fills it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal

from eventplat import Context, Rejected, Retry, Service
from eventplat.testing.harness import Harness
from services.orders.messages import Checkout, Order, OrderLine, PlaceOrder
from services.orders.service import orders
from services.payments.messages import Charge, ChargePayment, RefundCharge
from services.shipments.messages import ArrangeShipment, Shipment
from services.stock.messages import ReleaseStock, Reservation, ReserveStock
from tests.conformance.stage import until

ORDER = PlaceOrder(
    order_id="o-1", account_id="a-1", lines=(OrderLine(sku="LANTERN", quantity=6, unit_price=Decimal("3.39")),)
)


class Neighbours:
    """Stock, payments and shipments, as far as checkout speaks to them; carriers may be down, or take their time."""

    def __init__(self) -> None:
        self.carrier_is_down = False
        self.carrier_is_there = asyncio.Event()
        self.carrier_is_there.set()
        self.is_out_of_stock = False
        self.services = [Service("stock"), Service("payments"), Service("shipments", retry=Retry(attempts=1))]
        stock, payments, shipments = self.services
        stock.handles(ReserveStock)(self.reserve)
        stock.handles(ReleaseStock)(self.release)
        payments.handles(ChargePayment)(self.charge)
        payments.handles(RefundCharge)(self.refund)
        shipments.handles(ArrangeShipment)(self.arrange)

    async def reserve(self, command: ReserveStock, ctx: Context) -> Reservation:
        if self.is_out_of_stock:
            raise Rejected("out_of_stock")
        return Reservation(order_id=command.order_id, units=6)

    async def release(self, command: ReleaseStock, ctx: Context) -> None: ...

    async def charge(self, command: ChargePayment, ctx: Context) -> Charge:
        return Charge(charge_id=7, order_id=command.order_id, amount=command.amount)

    async def refund(self, command: RefundCharge, ctx: Context) -> None: ...

    async def arrange(self, command: ArrangeShipment, ctx: Context) -> Shipment:
        await self.carrier_is_there.wait()
        if self.carrier_is_down:
            raise RuntimeError("no carrier answers")
        return Shipment(
            order_id=command.order_id, tracking="EP1", country=command.country, units=command.units, status="arranged", scans=()
        )


def run(test: Callable[[Harness, Neighbours], Awaitable[None]]) -> None:
    async def whole() -> None:
        neighbours = Neighbours()
        async with Harness(orders, *neighbours.services) as harness:
            await test(harness, neighbours)

    asyncio.run(whole())


async def read(harness: Harness, status: str) -> tuple[Order, Checkout]:
    """The order, once its saga is seen in this state."""

    async def seen() -> Order | None:
        answer = await harness.http.get("/orders/o-1")
        if answer.status_code == 404:  # the saga has not opened it yet
            return None
        order = Order.model_validate(answer.json())
        return order if order.checkout is not None and order.checkout.status == status else None

    order: Order = await until(seen, f"an order whose saga is {status}")
    assert order.checkout is not None
    return order, order.checkout


def what(checkout: Checkout) -> list[tuple[str, str | None]]:
    return [(step.what, step.outcome) for step in checkout.steps]


def test_a_completed_order_shows_every_step_of_its_saga() -> None:
    async def test(harness: Harness, neighbours: Neighbours) -> None:
        await harness.ask(ORDER)
        order, checkout = await read(harness, "completed")
        assert (order.status, checkout.waits_for, checkout.problem) == ("completed", (), None)
        assert what(checkout) == [
            ("orders.open-order", "done"), ("stock.reserve-stock", "done"), ("payments.charge-payment", "done"), ("pivot", None),
            ("orders.mark-paid", "done"), ("shipments.arrange-shipment", "done"), ("orders.complete-order", "done"),
            ("publish orders.order-placed", None),
        ]  # fmt: skip

    run(test)


def test_an_order_on_its_way_shows_what_it_waits_for() -> None:
    async def test(harness: Harness, neighbours: Neighbours) -> None:
        neighbours.carrier_is_there.clear()
        placing = asyncio.create_task(harness.ask(ORDER))

        async def is_paid() -> Order | None:
            order, _ = await read(harness, "running")
            return order if order.status == "paid" else None

        order = await until(is_paid)
        assert order.checkout.waits_for == ("shipments.arrange-shipment",)
        neighbours.carrier_is_there.set()
        assert (await placing).tracking == "EP1"

    run(test)


def test_a_paid_order_whose_saga_stands_says_so_and_why() -> None:
    async def test(harness: Harness, neighbours: Neighbours) -> None:
        neighbours.carrier_is_down = True
        placing = asyncio.create_task(harness.ask(ORDER))
        order, checkout = await read(harness, "operator")
        assert order.status == "paid"
        assert "shipments.arrange-shipment" in str(checkout.problem)
        assert "no carrier answers" in str(checkout.problem)
        assert ("shipments.arrange-shipment", "failed") in what(checkout)
        placing.cancel()

    run(test)


def test_a_refused_order_shows_what_was_undone() -> None:
    async def test(harness: Harness, neighbours: Neighbours) -> None:
        neighbours.is_out_of_stock = True
        placing = asyncio.create_task(harness.ask(ORDER))
        order, checkout = await read(harness, "compensated")
        assert (order.status, order.reason) == ("refused", "out_of_stock")
        assert what(checkout) == [
            ("orders.open-order", "done"), ("stock.reserve-stock", "rejected"), ("orders.explain-refusal", "done"),
            ("undo orders.refuse-order", "done"),
        ]  # fmt: skip
        assert isinstance((await asyncio.gather(placing, return_exceptions=True))[0], Rejected)

    run(test)
