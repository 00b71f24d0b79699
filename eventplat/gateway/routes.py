"""Routes: from method and path to the handler that announced them, through a trie.

One step per path segment, however many routes there are: a thousand routes cost what ten do. A fixed word wins over
a `{field}`, unless only the field has the method. Two services that announce one route are a conflict: the one that was
heard first keeps it. What a service announces is not trusted: a route that is malformed, is one of the gateway's own or
leads to another service's message is left out, the others are served.

Next: gateway.validation
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote

from eventplat.discovery.instance import AnnouncedHandler, AnnouncedRoute, Manifest
from eventplat.discovery.route import METHODS
from eventplat.gateway.validation import Schema, check_text

logger = logging.getLogger(__name__)

RESERVED = frozenset({"docs", "health", "openapi.json", "operations"})   # first segments that the gateway serves itself
_TEMPLATE = re.compile(r"/|(/([A-Za-z0-9._~-]+|\{[a-z_][a-z0-9_]*\}))+")
_TYPE = re.compile(r"[a-z0-9-]+\.[a-z0-9-]+\.v[0-9]+")


@dataclass(frozen=True)
class Target:
    """What a route leads to."""

    service: str
    handler: AnnouncedHandler
    route: AnnouncedRoute
    schema: Schema
    fields: tuple[str, ...]          # of the path, in its order

    @property
    def is_query(self) -> bool:
        return self.handler.kind == "query"


@dataclass
class _Node:
    words: dict[str, _Node] = field(default_factory=dict)
    any: _Node | None = None
    targets: dict[str, Target] = field(default_factory=dict)   # by method


@dataclass(frozen=True)
class Match:
    """Where a path leads: to a target, or to the methods that it has instead."""

    target: Target | None
    values: tuple[str, ...]          # of the target's fields, percent-encoding undone
    methods: tuple[str, ...]


class Table:
    """All announced routes; built anew when the registry changes.

    Args:
        manifests: One per service, the service that was heard first before the others.
    """

    def __init__(self, manifests: Iterable[Manifest] = ()) -> None:
        self._root = _Node()
        self.targets: list[Target] = []
        self.conflicts: list[str] = []           # one sentence for each route that is announced and not served
        for manifest in manifests:
            for handler in manifest.handlers:
                if handler.route is not None:
                    self._add(manifest.service, handler, handler.route)

    def match(self, path: str, method: str) -> Match | None:
        """Where `path` (percent-encoded) leads; None: nowhere.

        Raises:
            ValueError: A field's value is not UTF-8, or not a text that can be kept.
        """
        segments = path.strip("/").split("/") if path != "/" else []
        methods: set[str] = set()
        for node, values in _walk(self._root, segments, 0, ()):
            target = node.targets.get(method)
            if target is not None:
                return Match(target, tuple(_text(value) for value in values), (method,))
            methods |= node.targets.keys()
        return Match(None, (), tuple(sorted(methods))) if methods else None

    def _add(self, service: str, handler: AnnouncedHandler, route: AnnouncedRoute) -> None:
        reason = _unservable(service, handler, route)
        if reason is None:
            try:
                schema = Schema(handler.schema_)
            except ValueError as error:
                reason = f"its schema cannot be used: {str(error)[:200]}"
            else:
                reason = self._place(Target(service, handler, route, schema, tuple(re.findall(r"\{(\w+)\}", route.template))))
        if reason is not None:
            conflict = f"{route.method} {route.template} of {service} is not served: {reason}"
            self.conflicts.append(conflict)
            logger.error("%s", conflict)

    def _place(self, target: Target) -> str | None:
        """Put `target` into the trie; else why not."""
        node, template = self._root, target.route.template
        for segment in template.strip("/").split("/") if template != "/" else []:
            if segment.startswith("{"):
                node.any = node.any or _Node()
                node = node.any
            else:
                node = node.words.setdefault(segment, _Node())
        known = node.targets.get(target.route.method)
        if known is not None:
            return f"{known.service} had announced it before"
        node.targets[target.route.method] = target
        self.targets.append(target)
        return None


def _unservable(service: str, handler: AnnouncedHandler, route: AnnouncedRoute) -> str | None:
    if route.method not in METHODS or not _TEMPLATE.fullmatch(route.template) or not 200 <= route.status <= 299:
        return "it is malformed"
    if route.template.split("/")[1] in RESERVED:
        return "the gateway has that path itself"
    if handler.kind == "event" or not _TYPE.fullmatch(handler.type) or handler.type.partition(".")[0] != service:
        return f"{handler.type} is not a command or query of that service"
    return None


def _walk(node: _Node, segments: list[str], at: int, values: tuple[str, ...]) -> Iterator[tuple[_Node, tuple[str, ...]]]:
    """Every node that the segments lead to, fixed words first."""
    if at == len(segments):
        yield node, values
        return
    word = node.words.get(segments[at])
    if word is not None:
        yield from _walk(word, segments, at + 1, values)
    if node.any is not None and segments[at]:
        yield from _walk(node.any, segments, at + 1, (*values, segments[at]))


def _text(value: str) -> str:
    text = unquote(value, errors="strict")
    check_text(text)
    return text
