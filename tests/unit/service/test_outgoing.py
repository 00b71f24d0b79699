"""What a service sends in its name."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from pydantic import SecretStr

from eventplat.broker.connect import open_transport
from eventplat.clock import SystemClock
from eventplat.service.outgoing import Outgoings
from eventplat.settings import load


@pytest.mark.parametrize(("url", "user"), [
    ("amqp://svc%40shop:p%2Fw@localhost:5672/", "svc@shop"),
    ("amqp://plain:p@localhost:5672/", "plain"),
    (None, None),
])  # fmt: skip
def test_messages_name_the_broker_user_as_the_broker_knows_it(url: str | None, user: str | None, tmp_path: Path) -> None:
    settings = load(data_dir=tmp_path, profile="dev", broker_url=None if url is None else SecretStr(url))
    transport = open_transport("embedded://", name="shop", clock=SystemClock())

    out = Outgoings("shop", settings, transport, owners={}, clock=SystemClock(), chance=random.Random(1))

    assert out.sender.user_id == user
