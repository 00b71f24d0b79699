"""Attempts: what is kept with a message that failed, of each attempt and of each thing an operator did. Pure.

A history is a list of JSON objects, oldest first. An error has `type`, `text`, `code`, `attempt`, `at_us`, `place` and
`traceback`; what an operator did has `action`, `by`, `at_us` and what changed.

Place     the innermost frame of the user's own code, `module.function:line`: dead letters are grouped by it. Not the platform's,
          the standard library's or an installed package's, unless there is no other.
Bounded   the newest `ERRORS_MAX` entries are kept, a text or traceback up to its own bound; an edit is kept always, since it
          holds the body that was there before.

Next: transactions.pending
"""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

ERRORS_MAX = 20
ERROR_CHARS_MAX = 4_000
TRACEBACK_CHARS_MAX = 4_000      # the end of it, where the error was raised

EDITED = "edited"

Entry: TypeAlias = dict[str, Any]

_HOUSE = str(Path(__file__).parents[1])
_STANDARD = sysconfig.get_paths()["stdlib"]
_INSTALLED = ("site-packages", "dist-packages")


def error_record(error: BaseException, attempt: int, now_us: int) -> Entry:
    """What is kept of an error, and which attempt it ended."""
    return {
        "type": type(error).__name__,
        "text": str(error)[:ERROR_CHARS_MAX],
        "code": getattr(error, "code", None),
        "attempt": attempt,
        "at_us": now_us,
        "place": place_of(error),
        "traceback": "".join(traceback.format_exception(error))[-TRACEBACK_CHARS_MAX:],
    }


def action_record(action: str, *, by: str, now_us: int, **what: Any) -> Entry:
    """What is kept of something that an operator did."""
    return {"action": action, "by": by, "at_us": now_us, **what}


def with_entry(history: Sequence[Entry], entry: Entry | None) -> list[Entry]:
    """The history with `entry` at its end, and no longer than it may be."""
    entries = [*history, *([entry] if entry else [])]
    surplus = len(entries) - ERRORS_MAX
    return [one for position, one in enumerate(entries) if position >= surplus or one.get("action") == EDITED]


def newest_error(history: Sequence[Entry]) -> Entry | None:
    """The error of the newest attempt; None where there was none."""
    return next((entry for entry in reversed(history) if "action" not in entry), None)


def place_of(error: BaseException) -> str | None:
    """The innermost frame of the user's own code, or of whoever raised the error; None for one that was never raised."""
    frames = [found for link in _chain(error) for found in _frames(link)]
    outside = [found for found in frames if not found[0].f_code.co_filename.startswith((_HOUSE, _STANDARD, "<"))]
    own = [found for found in outside if not set(Path(found[0].f_code.co_filename).parts) & set(_INSTALLED)]
    if not frames:
        return None
    frame, line = own[-1] if own else _innermost_of_first_package(outside) if outside else frames[-1]
    return f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}:{line}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and what it was raised from; a timeout's own traceback does not say what took so long."""
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        seen.insert(0, link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    yield from seen if not _has_own_frames(error) else [error]


def _has_own_frames(error: BaseException) -> bool:
    return any(not frame.f_code.co_filename.startswith((_HOUSE, _STANDARD, "<")) for frame, _ in _frames(error))


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    yield from traceback.walk_tb(error.__traceback__)


def _innermost_of_first_package(frames: Sequence[tuple[FrameType, int]]) -> tuple[FrameType, int]:
    """A service that is itself an installed package is called first, and calls the others."""
    package = _package(frames[0][0])
    return [found for found in frames if _package(found[0]) == package][-1]


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
