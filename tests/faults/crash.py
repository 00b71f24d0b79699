"""Crashes: one fault in the middle of a day in the shop, and what must be true afterwards.

A run proves three things: the fault happened (the process died by SIGKILL at the named failpoint, or the server was
restarted), it hit work in flight (some orders were answered before it, some after), and nothing was lost or done
twice: every client has a final answer, the books agree with what they were told, nothing is left over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from random import Random

import httpx

from services.demo import day
from services.demo.generate import generate
from services.demo.shop import Shop
from tests.faults.books import Fetch, at_rest, audit
from tests.faults.stack import Stack

SETTLE_S = 60.0
AWAY = "was away for longer than its term"    # what a process says that finds its rows given to others
AT_ONCE = 16


@dataclass(frozen=True)
class Fault:
    """What happens to whom.

    Attributes:
        victim: A process of the stack, or "rabbitmq" or "postgres".
        others: Processes that are armed alike, and must die too.
        arms: Failpoints for its next starts; empty: it is killed from outside, at a random moment.
        opening: Armed before the shop opens, for what happens only then: items and accounts are asked for by the gateway.
        pauses: This process is stopped (SIGSTOP) for `pause_s` at a random moment instead, and then goes on as if nothing had been.
        twin: A second instance of it runs meanwhile, which takes over what it owned.
    """

    victim: str
    arms: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    opening: bool = False
    pauses: str = ""
    pause_s: float = 0.0
    twin: bool = False

    def __str__(self) -> str:
        paused = f", {self.pauses} paused for {self.pause_s:g} s" if self.pauses else ""
        twin = ", beside a twin" if self.twin else ""
        if self.arms:
            return f"{', '.join(self.victims)} at {' then '.join(self.arms)}{' while opening' if self.opening else ''}{paused}{twin}"
        return f"{self.victim}{paused or ' at a random moment'}{twin}"

    @property
    def victims(self) -> tuple[str, ...]:
        """Everybody whom it happens to."""
        return (self.victim, *self.others)

    @property
    def kills(self) -> int:
        """How often each victim must have died."""
        return len(self.points) if self.arms else int(not self.pauses)

    @property
    def points(self) -> list[str]:
        """The failpoints that must have killed."""
        return [part.partition("=")[0] for arm in self.arms for part in arm.split(";") if "=kill" in part]


@dataclass
class Report:
    """How one run went."""

    fault: Fault
    orders: int = 0
    completed: int = 0
    refused: int = 0
    repeats: int = 0
    told_before: list[int] = field(default_factory=list)     # orders answered when each fault struck
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def line(self) -> str:
        """One line for the campaign's table."""
        result = "ok  " if not self.wrong else "FAIL"
        return (
            f"{result} {self.fault!s:<58} {self.orders:>4} orders  {self.completed:>4} completed {self.refused:>4} refused  "
            f"struck at {','.join(map(str, self.told_before)) or '-':<9} {self.repeats:>4} repeats {self.seconds:>5.0f} s"
            + "".join(f"\n       {each}" for each in self.wrong)
        )


async def run(
    stack: Stack, fetch: Fetch, fault: Fault, *, orders: int, seed: int, strike: Callable[[], Awaitable[None]] | None = None
) -> Report:
    """A day with `orders` orders and one fault in it.

    Args:
        strike: Does it, for a fault that is not one of the stack's processes; called when a part of the orders is answered.
    """
    report, began, chance = Report(fault, orders), time.monotonic(), Random(seed)
    plan = generate(orders, seed=seed, prefix=f"f{seed}-")
    limits = httpx.Limits(max_connections=AT_ONCE * 2)
    async with httpx.AsyncClient(base_url=stack.url, timeout=30, limits=limits) as http:
        shop = Shop(http)
        if not fault.opening:
            await day.open_shop(shop, plan, at_once=AT_ONCE)
        logged = {name: len(stack.log(name)) for name in stack.names}
        if fault.arms:
            await asyncio.gather(*(stack.arm(victim, *fault.arms) for victim in fault.victims))
        if fault.twin:
            await stack.double(fault.pauses)
        deaths, answered = len(stack.deaths), 0

        def count() -> None:
            nonlocal answered
            answered += 1

        watcher = asyncio.create_task(_watch(stack, deaths, lambda: answered, report.told_before))
        if fault.opening:
            await day.open_shop(shop, plan, at_once=AT_ONCE)
        trading = asyncio.create_task(day.trade(shop, plan, at_once=AT_ONCE, on_order=count))
        striker = asyncio.create_task(_strike(stack, fault, strike, lambda: answered, orders * chance.uniform(0.2, 0.6)))
        told = await trading
        await striker
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        if strike is not None or fault.pauses:
            report.told_before.append(striker.result())
        report.repeats, report.seconds = shop.repeats, time.monotonic() - began
        report.completed, report.refused = told.counts()["completed"], told.counts()["refused"]
        _prove(stack, fault, deaths, report, {name: stack.log(name)[length:] for name, length in logged.items()})
        await wait_until_at_rest(fetch)
        if fault.twin:
            await stack.halve(fault.pauses)
        await stack.ready()
        final = {id_: answer.is_accepted for id_, answer in told.orders.items()}
        report.wrong += audit(fetch, final) + [f"a server error: {error}" for error in shop.server_errors[:3]]
    return report


async def _strike(
    stack: Stack, fault: Fault, strike: Callable[[], Awaitable[None]] | None, answered: Callable[[], int], after: float
) -> int:
    if fault.arms and not fault.pauses:
        return 0
    while answered() < after:
        await asyncio.sleep(0.02)
    at = answered()
    if fault.pauses:
        await stack.pause_for(fault.pauses, fault.pause_s)
        return at
    if strike is not None:
        await strike()
    else:
        stack.kill(fault.victim)
    return at


async def _watch(stack: Stack, deaths: int, answered: Callable[[], int], struck: list[int]) -> None:
    while True:
        if len(stack.deaths) > deaths:
            deaths += 1
            struck.append(answered())
        await asyncio.sleep(0.02)


def _prove(stack: Stack, fault: Fault, deaths: int, report: Report, logs: Mapping[str, str]) -> None:
    """That the fault happened, and to work in flight."""
    new = stack.deaths[deaths:]
    for victim in fault.victims:
        killed = [death for death in new if death.name == victim and death.code == -9]
        if victim in stack.names and len(killed) < fault.kills:
            report.wrong.append(f"the fault did not happen to {victim}: {len(killed)} kills, deaths {new}")
        log = logs.get(victim, "")
        missing = [point for point in fault.points if f"failpoint {point} kill" not in log]
        report.wrong += [f"failpoint {point} did not fire in {victim}" for point in missing]
    if fault.pauses and not (fault.arms and fault.pauses == fault.victim) and AWAY not in logs[fault.pauses]:
        report.wrong.append(f"the pause did not outlast the term of {fault.pauses}")
    unplanned = [death for death in new if death.name not in fault.victims]
    report.wrong += [f"{death.name} died too, with {death.code}" for death in unplanned]
    if report.told_before and not any(at < report.orders for at in report.told_before):
        report.wrong.append("the fault hit no work in flight: every order had its answer")
    if not report.told_before:
        report.wrong.append("nobody saw the fault")


async def wait_until_at_rest(fetch: Fetch) -> None:
    """Wait until nothing is left to do; what is left after a minute is the audit's to name."""
    until = time.monotonic() + SETTLE_S
    while time.monotonic() < until and not at_rest(fetch):
        await asyncio.sleep(0.25)
