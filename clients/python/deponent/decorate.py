"""Makes calls of a function steps of a run, whichever run that is when it is called."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, ParamSpec, TypeVar, cast

from .attempt import OpenStep, arguments
from .types import Behavior

P = ParamSpec("P")
R = TypeVar("R")
Key = str | Callable[..., str] | None
Expected = str | Callable[..., str | None] | None


def blocking(opened: Any) -> AbstractContextManager[OpenStep]:
    """What `open_step` gave, for a plain `with`."""
    if not hasattr(opened, "__enter__"):
        raise TypeError("the run is an AsyncRun: its steps are coroutine functions and `async with` blocks")
    return cast(AbstractContextManager[OpenStep], opened)


def awaiting(opened: Any) -> AbstractAsyncContextManager[OpenStep]:
    """What `open_step` gave, for `async with`."""
    if not hasattr(opened, "__aenter__"):
        raise TypeError("the run is a Run, whose steps block: use deponent.AsyncClient in coroutines")
    return cast(AbstractAsyncContextManager[OpenStep], opened)


def decorated(
    function: Callable[P, R],
    run: Callable[[], Any],
    name: str | None,
    behavior: Behavior,
    key: Key,
    expected: Expected,
) -> Callable[P, R]:
    """The function, each call of which is a step of what `run` gives then."""

    def opened(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return run().open_step(
            name or getattr(function, "__name__", type(function).__name__),
            behavior=behavior,
            key=key(*args, **kwargs) if callable(key) else key,
            params=arguments(function, args, kwargs),
            expected=expected(*args, **kwargs) if callable(expected) else expected,
        )

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            async with awaiting(opened(args, kwargs)) as step:
                if step.must_run:
                    step.output = await function(*args, **kwargs)
            return step.output

        return cast(Callable[P, R], call_async)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with blocking(opened(args, kwargs)) as step:
            if step.must_run:
                step.output = function(*args, **kwargs)
        return cast(R, step.output)

    return call
