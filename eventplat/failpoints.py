"""Failpoints: named places where a test makes a process die, pause or fail.

Off unless `EVENTPLAT_FAILPOINTS` is set, then checked by one dictionary look-up. The grammar is
`name=action[@hit]`, separated by `;`, as `relay.after_confirm=kill@3;pg.commit=raise`. Actions: `kill`
(SIGKILL to this process), `pause` (SIGSTOP), `raise` (an `InjectedFault`), `sleep:MILLISECONDS`.
`@hit` is the n-th time the point is passed (default: the first); `@*` is every time.
A fired failpoint is written to standard error first, so that a test can prove that the fault happened.

`NAMES` lists every point in the house; an unknown name in the variable is an error, so that no fault
test passes by misspelling. Production refuses to start with the variable set (settings).
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections import Counter

from eventplat.errors import EventplatError, SettingsError

NAMES = frozenset({
    "consumer.received",        # delivered, nothing done
    "consumer.after_claim",     # inbox row inserted, not committed
    "consumer.mid_handler",     # first effect flushed inside the handler's transaction
    "consumer.before_commit",   # effects, outbox rows and outcome flushed
    "consumer.after_commit",    # committed, neither dispatched nor acked
    "consumer.after_ack",       # acked
    "pending.before_record",    # attempt rolled back, not yet recorded
    "pending.after_record",     # recorded, wire copy not acked
    "pending.after_count",      # a due row's attempt counted, not run
    "pending.before_commit",
    "dispatch.before_publish",
    "dispatch.after_publish",   # handed to the broker, not confirmed
    "dispatch.after_confirm",   # confirmed, rows not deleted
    "dispatch.after_settle",
    "relay.claimed",            # rows of a dead process adopted, not published
    "saga.before_commit",
    "saga.after_commit",
    "saga.before_undo",
    "saga.timer_claimed",
    "reply.before_publish",
    "reply.after_publish",
    "gateway.before_publish",
    "gateway.after_publish",    # the command is confirmed, no answer yet
    "gateway.before_response",
    "embedded.before_journal",
    "embedded.after_journal",   # on disk, not confirmed
})


class InjectedFault(EventplatError):
    """A failpoint was told to raise."""

    code = "EP999"
    next_move = "Unset EVENTPLAT_FAILPOINTS"


def failpoint(name: str) -> None:
    """Do nothing, unless a test armed `name`."""
    if _armed:
        _fire(name)


def arm(text: str) -> None:
    """Arm the failpoints that `text` names; an empty text disarms all.

    Raises:
        SettingsError: An unknown name, action or hit; nothing is armed then.
    """
    _armed.clear()
    _hits.clear()
    asked = dict(_read(item) for item in filter(None, (part.strip() for part in text.split(";"))))
    _armed.update(asked)


def _read(item: str) -> tuple[str, tuple[str, int]]:
    name, _, rest = item.partition("=")
    action, at, hit = rest.partition("@")
    if name not in NAMES:
        raise SettingsError(f"EVENTPLAT_FAILPOINTS names {name!r}, which is no failpoint")
    if not re.fullmatch(r"kill|pause|raise|sleep:[0-9]+", action):
        raise SettingsError(f"EVENTPLAT_FAILPOINTS asks for {action!r}: use kill, pause, raise or sleep:MILLISECONDS")
    if at and not re.fullmatch(r"[1-9][0-9]*|\*", hit):
        raise SettingsError(f"EVENTPLAT_FAILPOINTS asks for hit {hit!r} of {name}: count from 1, or use * for every one")
    return name, (action, 0 if hit == "*" else int(hit or 1))


def armed() -> bool:
    """Whether any failpoint is armed."""
    return bool(_armed)


_armed: dict[str, tuple[str, int]] = {}
_hits: Counter[str] = Counter()


def _fire(name: str) -> None:
    if name not in _armed:
        return
    action, hit = _armed[name]
    _hits[name] += 1
    if hit not in (0, _hits[name]):
        return
    print(f"failpoint {name} {action} hit {_hits[name]} pid {os.getpid()}", file=sys.stderr, flush=True)  # noqa: T201
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "pause":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action == "raise":
        raise InjectedFault(f"failpoint {name}")
    else:
        time.sleep(int(action.partition(":")[2]) / 1_000)


arm(os.environ.get("EVENTPLAT_FAILPOINTS", ""))
