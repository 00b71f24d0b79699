"""Message classes: Event, Command and Query, and the names they have on the wire.

    class OrderPlaced(Event): ...                                         wire name "order-placed", owned by whoever publishes it
    class ReserveStock(Command[Reservation], name="stock.reserve-stock")  owned by "stock"; answers a Reservation

A name on the wire comes from the class only, never from a function or a module: moving a file changes
nothing. A message that another service sends, or subscribes to, names its owner; within one file the
owner is the service that handles or publishes it.

It may change while old and new code run side by side:

    class OrderPlaced(Event, formerly="order-created"): ...               sent under the new name, read under both
    class OrderPlacedV2(Event, name="order-placed", version=2): ...       beside version 1, with handlers of its own
    @OrderPlacedV2.upcasts(OrderPlaced)                                   or read from version 1 as well
    def with_currency(old: OrderPlaced) -> OrderPlacedV2: ...

Next: messages.versions
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter

from eventplat.errors import BadMessageClass

T = TypeVar("T")
R = TypeVar("R")
O = TypeVar("O", bound="Message")  # noqa: E741 - the older one

MessageKind = Literal["event", "command", "query"]


class _Key:
    """Marks the field a message is ordered and sharded by."""

    def __repr__(self) -> str:
        return "Key"


Key = Annotated[T, _Key()]
"""`order_id: Key[str]`: what the message is ordered and sharded by; at most one field of a message."""


@dataclass(frozen=True, slots=True)
class WireName:
    """How a message class is called on the wire: `owner.name`, its major version and its stream."""

    owner: str | None
    name: str
    version: int
    stream: str

    def type_under(self, owner: str) -> str:
        """The `type` property, as `orders.order-placed.v1`."""
        return f"{owner}.{self.name}.v{self.version}"


class Message(BaseModel):
    """What services say to each other: a frozen model; consumers ignore fields they do not know.

    Class keywords:
        name: Wire name, `name` or `owner.name`, lower-case words joined by `-`. Default: the class's own in kebab case.
        version: Major version, 1 and up; a new one is a new queue binding beside the old.
        stream: The ordered stream it belongs to, a word as `name`. Default: the key's field name without `_id`, or `-` without a key.
        formerly: Wire names that it had, the oldest first: it is still read under them. It stays as long as anybody may send them.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_bytes="base64", val_json_bytes="base64")

    kind: ClassVar[MessageKind]
    wire: ClassVar[WireName]
    former: ClassVar[tuple[WireName, ...]] = ()          # what it was called before, the oldest first
    key_field: ClassVar[str | None] = None
    upcasters: ClassVar[dict[type[Message], Callable[[Any], Any]]] = {}
    _declared: ClassVar[tuple[str | None, int, str | None, tuple[str, ...]]] = (None, 1, None, ())

    def __init_subclass__(
        cls, *, name: str | None = None, version: int = 1, stream: str | None = None, formerly: str | Sequence[str] = (), **config: Any
    ) -> None:
        super().__init_subclass__(**config)
        cls._declared = (name, version, stream, (formerly,) if isinstance(formerly, str) else tuple(formerly))

    @classmethod
    def __pydantic_init_subclass__(cls, **config: Any) -> None:
        super().__pydantic_init_subclass__(**config)
        if Message not in cls.__bases__ and "[" not in cls.__name__:  # neither Command nor the Command[Reservation] in between
            _name(cls)

    @property
    def key(self) -> str | None:
        """The key's value as it stands in the body, as text; None without one."""
        if self.key_field is None:
            return None
        value = getattr(self, self.key_field)
        if value is None or type(value) is str:
            return value
        return str(self.model_dump(mode="json", include={self.key_field}, by_alias=False)[self.key_field])

    def to_bytes(self) -> bytes:
        """The body: this message's JSON and nothing else."""
        return self.model_dump_json().encode()

    @classmethod
    def upcasts(cls, older: type[O]) -> Callable[[Callable[[O], Self]], Callable[[O], Self]]:
        """Decorates the function that makes this message of an `older` one: a handler of this class is then given both.

        The function is pure and total: the same message, the same result, and none that it cannot take. It is applied after
        decoding, over several versions one after the other. The answer to an older command is this one's, and must read as its own.

        Raises:
            BadMessageClass: Another kind of message, one that is upcast already, or one that is itself made of this class.
        """
        if older.kind != cls.kind or older is cls:
            raise BadMessageClass(f"{cls.__name__} cannot be made of {older.__name__}, which is no older {cls.kind}")
        if older in cls.upcasters:
            raise BadMessageClass(f"{cls.__name__} is made of {older.__name__} by {cls.upcasters[older].__qualname__} already")
        if _is_made_of(older, cls):
            raise BadMessageClass(f"{older.__name__} is made of {cls.__name__}, so it cannot be the other way round as well")

        def declare(function: Callable[[O], Self]) -> Callable[[O], Self]:
            cls.upcasters[older] = function
            return function

        return declare


class Event(Message):
    """Something that happened, named in the past tense; any number of subscribers."""

    kind = "event"


class Command(Message, Generic[R]):
    """Something asked of its one owner, named in the imperative; `Command[R]` answers an `R`."""

    kind = "command"

    @classmethod
    def reply_adapter(cls) -> TypeAdapter[R]:
        """Reads and writes the reply."""
        return _reply_adapter(cls)


class Query(Message, Generic[R]):
    """A question without effect; `Query[R]` answers an `R`, and may be scattered over instances."""

    kind = "query"

    @classmethod
    def reply_adapter(cls) -> TypeAdapter[R]:
        """Reads and writes the reply."""
        return _reply_adapter(cls)


def reply_type(message: type[Message]) -> Any:
    """The `R` of a `Command[R]` or `Query[R]`; None for one that only acknowledges."""
    for base in message.__mro__:
        found = base.__dict__.get("__pydantic_generic_metadata__")
        if found and found["origin"] in (Command, Query) and found["args"]:
            answer = found["args"][0]
            return None if answer is type(None) or isinstance(answer, TypeVar) else answer
    return None


@cache
def _reply_adapter(message: type[Message]) -> TypeAdapter[Any]:
    return TypeAdapter(reply_type(message))


WORD_CHARS_MAX = 80      # three of them make a routing key, which AMQP limits to 255 bytes
_WORDS = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def _name(cls: type[Message]) -> None:
    given, version, stream, formerly = cls._declared
    owner, dot, name = (_kebab(cls.__name__) if given is None else given).rpartition(".")
    for word in (owner, name) if dot else (name,):
        _check_word(cls, word, shown=given or word, what="wire name", example="orders.place-order")
    if version < 1:
        raise BadMessageClass(f"{cls.__name__}: version={version}. Major versions count from 1")
    keys = [field for field, info in cls.model_fields.items() if any(isinstance(m, _Key) for m in info.metadata)]
    if len(keys) > 1:
        raise BadMessageClass(f"{cls.__name__} has {len(keys)} keys ({', '.join(keys)}). Keep one: order needs a single key")
    cls.key_field = keys[0] if keys else None
    if stream is not None:
        _check_word(cls, stream, shown=stream, what="stream", example="order")
    derived = keys[0].removesuffix("_id").replace("_", "-") if keys else "-"
    cls.wire = WireName(owner or None, name, version, derived if stream is None else stream)
    cls.former = tuple(_former(cls, each) for each in formerly)
    cls.upcasters = {}


def _former(cls: type[Message], given: str) -> WireName:
    owner, dot, name = given.rpartition(".")
    for word in (owner, name) if dot else (name,):
        _check_word(cls, word, shown=given or word, what="former name", example="orders.order-created")
    former = replace(cls.wire, owner=owner if dot else cls.wire.owner, name=name)
    if former == cls.wire:
        raise BadMessageClass(f"{cls.__name__} is called {given!r} now. formerly= takes the names that it does not have any more")
    if cls.kind != "event" and former.owner != cls.wire.owner:
        raise BadMessageClass(f"{cls.__name__}: {given!r} belongs to another service. A {cls.kind} can change its name, not its owner")
    return former


def _is_made_of(message: type[Message], other: type[Message]) -> bool:
    return any(each is other or _is_made_of(each, other) for each in message.upcasters)


def _check_word(cls: type[Message], word: str, *, shown: str, what: str, example: str) -> None:
    if not _WORDS.fullmatch(word):
        raise BadMessageClass(f"{cls.__name__}: {shown!r} is no {what}. Use lower-case words joined by '-', as {example!r}")
    if len(word) > WORD_CHARS_MAX:
        raise BadMessageClass(f"{cls.__name__}: {word[:20]!r}… has {len(word)} characters. A {what} has at most {WORD_CHARS_MAX}")


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()
