"""Which run `deponent.step` is about: the innermost `with` around it, of this thread or task."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from typing import Any

from .errors import NoRun

# The innermost run, and what was current around it. Any, as runs import this.
_current: ContextVar[tuple[Any, Any] | None] = ContextVar("deponent_run", default=None)


def enter(run: Any) -> None:
    _current.set((run, _current.get()))


def leave() -> None:
    innermost = _current.get()
    _current.set(None if innermost is None else innermost[1])


class Opened:
    """What the blocks of one object have opened, which may stand in several threads and tasks at once."""

    def __init__(self) -> None:
        self._by: dict[object, list[Any]] = {}

    def push(self, opened: Any) -> None:
        self._by.setdefault(_who(), []).append(opened)

    def pop(self) -> Any:
        """What the innermost block of this thread or task has opened; one that is left by another: the newest."""
        who = _who()
        if who not in self._by:
            who = next(reversed(self._by))
        opened = self._by[who].pop()
        if not self._by[who]:
            del self._by[who]
        return opened


def _who() -> object:
    try:
        return asyncio.current_task() or threading.get_ident()
    except RuntimeError:
        return threading.get_ident()


def current_run() -> Any:
    """The run whose `with` this stands in: a `Run` or an `AsyncRun`."""
    innermost = _current.get()
    if innermost is None:
        raise NoRun(
            "no run is current: call this within `with deponent.run(…):` or `with client.run(…):` (a new thread has "
            "none of its starter's: hand it contextvars.copy_context(), or use run.step)"
        )
    return innermost[0]
