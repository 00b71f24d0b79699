"""Routes: from method and path to the handler that announced them, through a trie.

One step per path segment, however many routes there are: a thousand routes cost what ten do. A fixed word wins over
a `{field}`. Two services that announce one route, or one command, are a conflict: the first keeps it, by name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import unquote

from eventplat.discovery.instance import AnnouncedHandler, AnnouncedRoute, Manifest
from eventplat.gateway.validation import Schema

logger = logging.getLogger(__name__)


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
    """Where a path leads, by method, and the values of its fields."""

    targets: dict[str, Target]
    values: tuple[str, ...]


class Table:
    """All announced routes; built anew when the registry changes."""

    def __init__(self, manifests: Iterable[Manifest] = ()) -> None:
        self._root = _Node()
        self.targets: list[Target] = []
        self.conflicts: list[str] = []
        for manifest in manifests:
            for handler in manifest.handlers:
                if handler.route is not None:
                    self._add(manifest.service, handler, handler.route)

    def match(self, path: str) -> Match | None:
        """Where `path` leads; None: nowhere."""
        segments = path.strip("/").split("/") if path != "/" else []
        found = _walk(self._root, segments, 0, ())
        return None if found is None else Match(found[0].targets, tuple(unquote(value) for value in found[1]))

    def _add(self, service: str, handler: AnnouncedHandler, route: AnnouncedRoute) -> None:
        node, fields = self._root, []
        for segment in route.template.strip("/").split("/") if route.template != "/" else []:
            if segment.startswith("{"):
                fields.append(segment[1:-1])
                node.any = node.any or _Node()
                node = node.any
            else:
                node = node.words.setdefault(segment, _Node())
        known = node.targets.get(route.method)
        if known is not None:
            conflict = f"{route.method} {route.template} is announced by {known.service} and {service}: {known.service} keeps it"
            self.conflicts.append(conflict)
            logger.error("%s", conflict)
            return
        target = Target(service, handler, route, Schema(handler.schema_), tuple(fields))
        node.targets[route.method] = target
        self.targets.append(target)


def _walk(node: _Node, segments: list[str], at: int, values: tuple[str, ...]) -> tuple[_Node, tuple[str, ...]] | None:
    if at == len(segments):
        return (node, values) if node.targets else None
    word = node.words.get(segments[at])
    if word is not None and (found := _walk(word, segments, at + 1, values)) is not None:
        return found
    if node.any is not None and segments[at]:
        return _walk(node.any, segments, at + 1, (*values, segments[at]))
    return None
