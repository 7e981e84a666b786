"""`deponent.step` and `deponent.run`: steps of whichever run is current."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from types import TracebackType
from typing import Any, overload

from .attempt import OpenStep
from .client import AsyncClient, Client
from .current import Opened, current_run
from .decorate import Expected, Key, P, R, awaiting, blocking, decorated
from .runs import AsyncRun, Run
from .types import Behavior, Json


class Step:
    """Made by `deponent.step`: a decorator, or a block of `with` or `async with`."""

    def __init__(
        self,
        name: str | None,
        behavior: Behavior,
        key: Key,
        params: Json,
        expected: Expected,
        index: int | None,
    ) -> None:
        self._name = name
        self._behavior = behavior
        self._key = key
        self._params = params
        self._expected = expected
        self._index = index
        self._opened = Opened()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        if self._params is not None or self._index is not None:
            raise TypeError("params and index are for blocks: a function's parameters are its arguments")
        return decorated(function, current_run, self._name, self._behavior, self._key, self._expected)

    def _open(self) -> Any:
        if self._name is None:
            raise TypeError("a block has no name of its own: write deponent.step(\"name\")")
        if callable(self._key) or callable(self._expected):
            raise TypeError("a block has no arguments: its key and expected hash are texts")
        return current_run().open_step(
            self._name,
            behavior=self._behavior,
            key=self._key,
            params=self._params,
            expected=self._expected,
            index=self._index,
        )

    def __enter__(self) -> OpenStep:
        opened = blocking(self._open())
        step = opened.__enter__()
        self._opened.push(opened)
        return step

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.pop().__exit__(kind, error, trace)

    async def __aenter__(self) -> OpenStep:
        opened = awaiting(self._open())
        step = await opened.__aenter__()
        self._opened.push(opened)
        return step

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened.pop().__aexit__(kind, error, trace)


@overload
def step(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def step(
    name: str | None = None,
    /,
    *,
    behavior: Behavior = "execute",
    key: Key = None,
    params: Json = None,
    expected: Expected = None,
    index: int | None = None,
) -> Step: ...


def step(
    name: Any = None,
    /,
    *,
    behavior: Behavior = "execute",
    key: Key = None,
    params: Json = None,
    expected: Expected = None,
    index: int | None = None,
) -> Any:
    """A step of the current run: around a function, or around a block.

        @deponent.step(behavior="skip", key=lambda order: f"pay-{order}")
        def pay(order): ...

        with deponent.step("search", behavior="check", expected=known) as step:
            if step.must_run:
                step.output = search()

    The run is the innermost `with deponent.run(…)` or `with client.run(…)` when the function is called or
    the block entered; `NoRun` is raised when there is none. The same with coroutine functions, `async with`
    and an `AsyncClient`.

    `key` makes two calls the same step, across runs and processes: a text, or a function of the arguments.
    `expected` is the hash that the output must have, for `check`.
    """
    if callable(name):
        return Step(None, behavior, key, params, expected, index)(name)
    return Step(name, behavior, key, params, expected, index)


class CurrentRun:
    """Made by `deponent.run`: starts a run when its block is entered, and ends it when that is left."""

    def __init__(
        self, client: Client | AsyncClient | None, run_id: str | None, fields: dict[str, Json]
    ) -> None:
        self._client = client
        self._run_id = run_id
        self._fields = fields
        self._left = Opened()

    def __enter__(self) -> Run:
        if isinstance(self._client, AsyncClient):
            raise TypeError("an AsyncClient's runs are entered by `async with`")
        with ExitStack() as stack:
            client = self._client
            if client is None:
                client = stack.enter_context(Client())
            run = stack.enter_context(client.run(self._run_id, **self._fields))
            self._left.push(stack.pop_all())
        return run

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.pop().__exit__(kind, error, trace)

    async def __aenter__(self) -> AsyncRun:
        if isinstance(self._client, Client):
            raise TypeError("a Client's runs are entered by `with`: use deponent.AsyncClient in coroutines")
        async with AsyncExitStack() as stack:
            client = self._client
            if client is None:
                client = await stack.enter_async_context(AsyncClient())
            run = await stack.enter_async_context(await client.run(self._run_id, **self._fields))
            self._left.push(stack.pop_all())
        return run

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._left.pop().__aexit__(kind, error, trace)


def run(client: Client | AsyncClient | None = None, *, run_id: str | None = None, **fields: Json) -> CurrentRun:
    """A run around a block: `with` a `Client`, `async with` an `AsyncClient`; without one, of the server on this machine.

    `fields` are those of POST /api/v1/runs. The run is `deponent.step`'s within the block, and ends with it:
    `completed`, or `failed` when the block raises.
    """
    return CurrentRun(client, run_id, fields)
