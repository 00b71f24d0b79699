"""Foreign messages: what another system's queue brings, in an envelope of ours. Pure.

    @service.consume(queue="legacy.orders", decode=LegacyOrder, id=lambda order: order.number)

Who wrote it knows nothing of eventplat, so nothing of its form is asked for but one thing: something that tells a copy from a
new message. From that key our id is derived, the same for every copy whenever it comes, and the inbox does the rest. The
bytes and properties stay as they came, so that what runs again from the database is decoded as it was from the wire.

Next: service.pipeline
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from eventplat.errors import Malformed
from eventplat.messages.codec import Foreign, Properties, parse
from eventplat.messages.ids import derived_id
from eventplat.messages.message import Event

Decode = Callable[[bytes, Properties], Any]


class ForeignMessage(Event, name="foreign"):
    """Stands in a handler's declaration where others have their message class: settled and retried as an event is."""


@dataclass(frozen=True)
class ForeignQueue:
    """A queue that eventplat did not declare.

    Args:
        name: On the broker, without a prefix.
        decode: `(body, properties) -> T`, pure; or a pydantic model of the JSON; None: the JSON as a dictionary.
        key: Of what `decode` made, what tells a copy; or the name of a property or header that does. None: the `message_id`.
    """

    name: str
    decode: Decode | type[BaseModel] | None = None
    key: Callable[[Any], object] | str | None = None

    def envelope(self, properties: Properties, body: bytes) -> Foreign:
        """What came, under the id that every copy of it has.

        Raises:
            Malformed: Nothing in it tells a copy from a new message.
        """
        properties = replace(properties, headers={name: _plain(value) for name, value in properties.headers.items()})
        own = derived_id(0, self.name, self._key(properties, body))  # without a time: copies may come at any
        return Foreign(id=own, type=f"foreign.{self.name}", body=body, correlation_id=own, properties=properties)

    def read(self, properties: Properties, body: bytes) -> Any:
        """What the handler is given.

        Raises:
            Malformed: It cannot be decoded, with the reason.
        """
        if isinstance(self.decode, type) and issubclass(self.decode, BaseModel):
            return parse(_adapter(self.decode), body)
        decode: Decode = self.decode or _json
        try:
            return decode(body, properties)
        except (Malformed, ValidationError):
            raise
        except Exception as error:  # decoding is pure: whatever it raises, it raises again
            raise Malformed(f"it cannot be decoded: {type(error).__name__}: {error}") from error

    def _key(self, properties: Properties, body: bytes) -> str:
        if callable(self.key):
            try:
                value = self.key(self.read(properties, body))
            except Exception as error:
                raise Malformed(f"it has no id: {type(error).__name__}: {error}") from error
        elif self.key is not None:
            value = getattr(properties, self.key, None) if self.key != "headers" else None
            value = properties.headers.get(self.key) if value is None else value
        else:
            value = properties.message_id
        if value is None or value == "":
            where = "its message_id is missing: name what tells a copy by id=" if self.key is None else "what id= names is missing"
            raise Malformed(f"it has no id: {where}")
        return str(value)


def _json(body: bytes, _: Properties) -> dict[str, Any]:
    found = json.loads(body.decode())
    if not isinstance(found, dict):
        raise Malformed(f"it is a {type(found).__name__}, not a JSON object: give decode= what reads it")
    return found


@cache
def _adapter(model: type[BaseModel]) -> TypeAdapter[Any]:
    return TypeAdapter(model)


def _plain(value: object) -> Any:
    """A header as JSON can keep it: so it is the same when it runs again from the database."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value)
