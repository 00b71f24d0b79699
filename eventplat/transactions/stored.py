"""Stored messages: an outgoing or a received message as a row's columns, and back. Pure.

The outbox and `pending` keep the exact bytes and properties, so that what is sent later, or run later,
is what was written: byte for byte.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from eventplat.broker.transport import Outgoing
from eventplat.messages.codec import Properties

_NAMES = tuple(each.name for each in fields(Properties))
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


def properties_text(properties: Properties) -> str:
    """`properties` as JSON, without those that are not there; a timestamp of 0 is."""
    there = {name: value for name in _NAMES if (value := getattr(properties, name)) is not None and value != {}}
    return _ENCODE(there)


def to_properties(text: str) -> Properties:
    """The properties that `properties_text` wrote."""
    return Properties(**json.loads(text))


def to_outgoing(row: Any) -> Outgoing:
    """The message of a row with exchange, routing_key, mandatory, properties and body."""
    return Outgoing(row.exchange, row.routing_key, to_properties(row.properties), row.body, mandatory=row.mandatory)
