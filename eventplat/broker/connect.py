"""Connect: the transport that a broker URL asks for.

| URL | transport | |
|---|---|---|
| `amqp://`, `amqps://` | `broker.rabbitmq` | several, separated by commas, are tried in turn |
| `embedded:///path/to/broker.db` | `broker.embedded` | without a path: in memory |

Each is imported when asked for: an embedded process never loads pika, and the other way round.

Next: broker.rabbitmq, broker.embedded
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from eventplat.broker.transport import Transport
from eventplat.clock import Clock
from eventplat.errors import SettingsError


def open_transport(url: str, *, name: str, clock: Clock) -> Transport:
    """The transport for `url`, ready for its `open`.

    Args:
        url: See above.
        name: Of the process, as operators see it.

    Raises:
        SettingsError: Another scheme, no URL at all, or a path that is not absolute.
    """
    scheme = urlsplit(url).scheme
    if scheme in {"amqp", "amqps"}:
        from eventplat.broker.rabbitmq import RabbitTransport  # noqa: PLC0415 - loaded when asked for

        return RabbitTransport(re.split(r",\s*(?=amqps?://)", url), name=name, clock=clock)
    if scheme == "embedded":
        from eventplat.broker.embedded import EmbeddedTransport  # noqa: PLC0415

        path = unquote(url.partition("://")[2])
        if path and not path.startswith("/"):
            raise SettingsError(f"embedded://{path} has no absolute path. Write it as embedded:///var/lib/shop/broker.db")
        return EmbeddedTransport(Path(path) if path else None, clock=clock)
    raise SettingsError(f"{scheme or 'nothing'}:// is no broker: use amqp://, amqps:// or embedded://")
