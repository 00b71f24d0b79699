"""Branches: run coroutines without a loop. Pure.

Every await of a saga yields one instruction (`sagas.saga`). The branch that yielded it stands still until it is
resumed with a value or an error; when the last branch of a gather has ended, the branch that gathered them
goes on. There is no scheduler: who resumes whom, and in which order, is the caller's, and so the history's.

What has been started is closed before the run is over: a coroutine left to the garbage collector would run its
`finally` blocks at any later moment (temporalio/sdk-python#325, #494).

Next: sagas.replay
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from inspect import CORO_CREATED, getcoroutinestate, iscoroutine
from typing import Any

from eventplat.errors import ForeignAwait
from eventplat.sagas.saga import ENDINGS, Halt

CLOSINGS_MAX = 100  # of one coroutine that awaits on while it is closed


@dataclass(slots=True, eq=False)
class Branch:
    """One coroutine: the function itself, or a branch of a gather."""

    prefix: str                                             # of its paths: "", "2.1."
    coroutine: Coroutine[Any, Any, Any]
    parent: Branch | None = None
    position: int = 0                                       # of its next step
    branches: list[Branch] = field(default_factory=list)    # of the gather it waits for
    running: int = 0                                        # how many of those
    has_ended: bool = False
    value: Any = None
    error: BaseException | None = None

    @property
    def place(self) -> str:
        """The path its next step will get."""
        return f"{self.prefix}{self.position}"

    def take_path(self) -> str:
        """The path of the step it asks now."""
        path = self.place
        self.position += 1
        return path


class Branches:
    """All branches of one run.

    Args:
        perform: Does what a branch has yielded; resumes the branch now or later.
    """

    def __init__(self, perform: Callable[[Branch, object], None]) -> None:
        self.current: Branch
        self.is_halted = False   # set inside the function: it may have swallowed the `Halt`
        self.is_closed = False
        self._perform = perform
        self._all: list[Branch] = []
        self._made: list[Awaitable[Any]] = []
        self._ready: deque[tuple[Branch, Any, BaseException | None]] = deque()

    def begin(self, prefix: str, awaitable: Awaitable[Any], parent: Branch | None = None) -> Branch:
        """A new branch; it starts with the next `run`."""
        branch = Branch(prefix, awaitable if isinstance(awaitable, Coroutine) else _await(awaitable), parent)
        self._all.append(branch)
        self.resume(branch)
        return branch

    def gather(self, parent: Branch, awaitables: Sequence[Awaitable[Any]]) -> None:
        """Begin one branch for each; `parent` goes on when all have ended."""
        path = parent.take_path()
        parent.running = len(awaitables)
        parent.branches = [self.begin(f"{path}.{i}.", each, parent) for i, each in enumerate(awaitables)]
        if not awaitables:
            self.resume(parent, ())

    def resume(self, branch: Branch, value: Any = None, error: BaseException | None = None) -> None:
        """Let `branch` go on with the next `run`: its await returns `value`, or raises `error`."""
        self._ready.append((branch, value, error))

    def run(self) -> None:
        """Run until every branch waits.

        Raises:
            Halt: The run was halted inside the function.
        """
        while self._ready:
            branch, value, error = self._ready.popleft()
            self.current = branch
            yielded: object = None
            try:
                yielded = branch.coroutine.send(value) if error is None else branch.coroutine.throw(error)
            except StopIteration as end:
                branch.value, branch.has_ended = end.value, True
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as failure:
                branch.error, branch.has_ended = failure, True
            if self.is_halted:
                raise Halt
            if not branch.has_ended:
                self._perform(branch, yielded)
            elif branch.parent is not None:
                self._join(branch.parent)

    def _join(self, parent: Branch) -> None:
        parent.running -= 1
        if parent.running == 0:
            errors = [branch.error for branch in parent.branches if branch.error is not None]
            bugs = [error for error in errors if not isinstance(error, ENDINGS)]
            self.resume(parent, tuple(branch.value for branch in parent.branches), next(iter(bugs or errors), None))

    def keep(self, made: Awaitable[Any]) -> None:
        """Close `made` as well: a step that the function has made and not yet awaited."""
        self._made.append(made)

    def has_forgotten(self) -> bool:
        """Whether a step was made and never awaited."""
        return any(iscoroutine(made) and getcoroutinestate(made) == CORO_CREATED for made in self._made)

    def close(self) -> BaseException | None:
        """Put the function away; what its `finally` blocks raise at that."""
        self.is_closed = True
        errors = [_close(branch.coroutine) for branch in reversed(self._all)]
        errors += [_close(made) for made in self._made if isinstance(made, Coroutine)]
        return next((error for error in errors if error is not None), None)


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _close(coroutine: Coroutine[Any, Any, Any]) -> BaseException | None:
    """End it. Thrown into, not closed: `close` kills the outermost and leaves an inner one that awaits on in a `finally`."""
    if getattr(coroutine, "cr_frame", None) is None or getcoroutinestate(coroutine) == CORO_CREATED:
        coroutine.close()
        return None
    found: BaseException | None = None
    for _ in range(CLOSINGS_MAX):
        try:
            coroutine.throw(Halt())
        except (Halt, StopIteration):
            break
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            return found or error
        found = ForeignAwait("the saga awaited in a `finally` while it was put away")
    return found
