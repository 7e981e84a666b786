"""Which run `deponent.step` is about: the innermost `with` around it, of this thread or task."""

from __future__ import annotations

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


def current_run() -> Any:
    """The run whose `with` this stands in: a `Run` or an `AsyncRun`."""
    innermost = _current.get()
    if innermost is None:
        raise NoRun(
            "no run is current: call this within `with deponent.run(…):` or `with client.run(…):` (a new thread has "
            "none of its starter's: hand it contextvars.copy_context(), or use run.step)"
        )
    return innermost[0]
