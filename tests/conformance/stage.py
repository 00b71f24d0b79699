"""A stage: services on the embedded broker and a real database, with direct sends, answers and rows.

    async with Stage(tmp_path, database_url) as stage:
        runner = await stage.run(shop)
        answer = await stage.ask(Add(key="a"))
        rows = await stage.rows(runner, select(...))
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Executable

from eventplat.broker.connect import open_transport
from eventplat.broker.topology import COMMANDS, EVENTS, REPLIES, Binding, Names, Queue, routing_key
from eventplat.broker.transport import Delivery, Outgoing, Transport
from eventplat.clock import SystemClock
from eventplat.messages.codec import Properties, to_envelope, to_properties
from eventplat.messages.envelope import Envelope
from eventplat.messages.ids import new_id
from eventplat.messages.message import Message
from eventplat.security.grant import GrantVerifier
from eventplat.service.runner import Runner
from eventplat.service.service import Service
from eventplat.settings import Settings, load

WITHIN_S = 30.0


async def until(holds: Callable[[], Any] | Callable[[], Awaitable[Any]], what: str = "") -> Any:
    """The first true value of `holds`; fails after half a minute."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        found = holds()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {WITHIN_S:g} s: {what or holds}"
        await asyncio.sleep(0.005)


class Stage:
    """Runs services of one test, and speaks to their queues as any other process would."""

    def __init__(self, folder: Path, database_url: str | None, **settings: object) -> None:
        url = {} if database_url is None else {"database_url": database_url}
        broker = {"broker_url": f"embedded://{folder / 'broker.db'}"}  # named, so that several instances may share the database
        self.settings: Settings = load(data_dir=folder, profile="dev", **url, **(broker | settings))
        self.names, self.clock, self.chance = Names(self.settings.prefix), SystemClock(), random.SystemRandom()
        self.answers: defaultdict[str, list[Envelope]] = defaultdict(list)
        self._me = self.names.waiting("stage")
        self._runners: dict[Runner, Transport] = {}
        self._hears = False

    async def __aenter__(self) -> Self:
        self.transport = await self._open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for runner in reversed(list(self._runners)):
            await self.stop(runner)
        await self.transport.close()

    async def run(self, service: Service[Any], beside: Sequence[Service[Any]] = (), verifier: GrantVerifier | None = None) -> Runner:
        """Start one instance of `service`."""
        transport = await self._open()
        runner = Runner(service, self.settings, transport, verifier, clock=self.clock, chance=self.chance, beside=beside)
        self._runners[runner] = transport
        await runner.start()
        if not self._hears:  # the first runner has declared the exchange
            self._hears = True
            answers = Queue(self._me, "exclusive", (Binding(self.names.exchange(REPLIES), self._me),))
            await self.transport.consume(answers, self._heard, prefetch=1_000)
        return runner

    async def stop(self, runner: Runner) -> None:
        transport = self._runners.pop(runner)
        await runner.stop()
        await transport.close()

    def new_id(self) -> str:
        return new_id(self.clock.time_us(), self.chance)

    def envelope(self, message: Message, *, id_: str | None = None, **more: Any) -> Envelope:
        """`message` as a gateway would send it."""
        own = id_ or self.new_id()
        owner = type(message).wire.owner
        assert owner is not None
        stream = type(message).wire.stream if message.kind == "event" else None
        reply_to = None if message.kind == "event" else self._me
        fields = {"reply_to": reply_to, "app_id": owner, "key": message.key, "stream": stream} | more
        return Envelope(id=own, type=type(message).wire.type_under(owner), body=message.to_bytes(), correlation_id=own, **fields)

    async def send(self, *sent: tuple[Message, Envelope]) -> None:
        """Put these on the broker, in this order and in one batch."""
        await self.transport.publish([self._outgoing(message, envelope) for message, envelope in sent])

    async def send_bytes(self, like: Message, body: bytes, properties: Properties) -> None:
        """Put whatever bytes into the queue that takes `like`."""
        outgoing = self._outgoing(like, self.envelope(like))
        await self.transport.publish([Outgoing(outgoing.exchange, outgoing.routing_key, properties, body)])

    async def ask(self, message: Message, *, id_: str | None = None, **more: Any) -> Envelope:
        """Send `message` and return the next answer to its id."""
        envelope = self.envelope(message, id_=id_, **more)
        heard = len(self.answers[envelope.id])
        await self.send((message, envelope))
        return await self.answer_to(envelope.id, heard + 1)

    async def answer_to(self, id_: str, number: int = 1) -> Envelope:
        """The `number`-th answer to `id_`."""
        await until(lambda: len(self.answers[id_]) >= number, f"answer {number} to {id_}")
        return self.answers[id_][number - 1]

    async def rows(self, runner: Runner, statement: Executable) -> list[Any]:
        async with runner.out.database.transaction() as connection:
            result = await connection.execute(statement)
            return list(result.all()) if result.returns_rows else []

    def _outgoing(self, message: Message, envelope: Envelope) -> Outgoing:
        exchange = self.names.exchange(EVENTS if message.kind == "event" else COMMANDS)
        key = routing_key(type(message), type(message).wire.owner or "", message.key)
        return Outgoing(exchange, key, to_properties(envelope), envelope.body)

    def _heard(self, delivery: Delivery) -> None:
        answer = to_envelope(delivery.properties, delivery.body)
        delivery.ack()
        self.answers[answer.causation or ""].append(answer)

    async def _open(self) -> Transport:
        transport = open_transport(self.settings.broker(), name="stage", clock=self.clock)
        await transport.open()
        return transport
