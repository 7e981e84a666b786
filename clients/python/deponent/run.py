"""Runs, and the steps that are done in them.

A step is asked for before it is done. What the server says decides: run the
function and bring what came out, or take the output that is stored. Either way it
is on record twice: as the enforcement, and as a step of the run.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import itertools
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast
from collections.abc import AsyncIterator

from .errors import DeponentError, LeaseLost
from .types import Behavior, Json, StepResult

if TYPE_CHECKING:
    from .client import AsyncClient, Client

P = ParamSpec("P")
R = TypeVar("R")
Key = str | Callable[..., str] | None

# Renewed so often while a lease holds, two renewals may be lost.
RENEWALS_PER_LEASE = 3.0
# Of a server that does not say how long its leases hold: its default.
LEASE_SECS = 60.0


def input_hash(value: Json) -> str:
    """SHA-256 over the input, the same for equal inputs of this client."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def _bound(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Json]:
    """The arguments by name, as JSON; what is none stands as its repr."""
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return cast(dict[str, Json], json.loads(json.dumps(dict(bound.arguments), default=repr)))


def _key(key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    return key(*args, **kwargs) if callable(key) else key


def _question(
    run_id: str, index: int, behavior: Behavior, key: str | None, params: Json, expected: str | None
) -> dict[str, Json]:
    body: dict[str, Json] = {"run_id": run_id, "step_index": index, "replay_behavior": behavior}
    if key:
        body["idempotency_key"] = key
        body["input_hash"] = input_hash(params)
    if expected:
        body["output_hash"] = expected
    return body


def _evidence(
    index: int,
    name: str,
    behavior: Behavior,
    key: str | None,
    params: Json,
    began: float,
    result: StepResult | None,
    error: BaseException | None,
) -> dict[str, Json]:
    failed = error is not None
    body: dict[str, Json] = {
        "step_index": index,
        "skill_name": name,
        "params": params if isinstance(params, dict) else {"input": params},
        "status": "failure" if failed else "skipped" if result is not None and result.from_cache else "success",
        "outcome_category": "failure" if failed else "success",
        "duration_ms": (time.monotonic() - began) * 1000.0,
        "replay_behavior": behavior,
        "source": "replay" if result is not None and result.from_cache else "external",
    }
    if error is not None:
        body["outcome_code"] = type(error).__name__
    if result is not None:
        body["outcome_data"] = result.output
        body["output_hash"] = result.output_hash
    if key:
        body["idempotency_key"] = key
        body["input_hash"] = input_hash(params)
    return body


class OpenStep:
    """A step that is being done: set `output` if `must_run`, else take it."""

    def __init__(self, output: Json, must_run: bool) -> None:
        self.output: Json = output
        self.must_run = must_run
        self.result: StepResult | None = None


class AsyncOpenStep(OpenStep):
    """The same within `async with`."""


def _renew_secs(said: dict[str, Any], key: str | None) -> float | None:
    """How often the lease of a decision is renewed; `None`: without a key there is none."""
    return float(said.get("lease_secs", LEASE_SECS)) / RENEWALS_PER_LEASE if key else None


def _is_over(error: Exception) -> bool:
    """Whether no renewal can succeed any more. After all else, the next one may."""
    return isinstance(error, LeaseLost) or (isinstance(error, DeponentError) and error.status == 404)


class _Renewal:
    """Renews a lease until told to stop, on a thread of its own."""

    def __init__(self, client: Client, token: str, secs: float | None) -> None:
        self._stop = threading.Event()
        if secs is not None:
            threading.Thread(target=self._renew, args=(client, token, secs), daemon=True).start()

    def _renew(self, client: Client, token: str, secs: float) -> None:
        while not self._stop.wait(secs):
            try:
                client.request("POST", f"/api/v1/replay/steps/{token}/renew")
            except Exception as error:  # noqa: BLE001 - the result says whether the lease was lost
                if _is_over(error):
                    return

    def stop(self) -> None:
        self._stop.set()


class Run:
    """A run. Steps are counted in the order in which they are begun."""

    def __init__(self, client: Client, run_id: str) -> None:
        self.client = client
        self.run_id = run_id
        self._indexes = itertools.count()
        self._lock = threading.Lock()

    def _next(self, index: int | None) -> int:
        with self._lock:
            return next(self._indexes) if index is None else index

    def step(
        self,
        name: str | None = None,
        *,
        behavior: Behavior = "execute",
        key: Key = None,
        expected: Callable[..., str | None] | str | None = None,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Makes each call of a function a step.

        `key` makes two calls the same step, across runs and processes: a text, or a function of
        the arguments. `expected` is the hash that the output must have, for `check`.
        """

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            @functools.wraps(function)
            def call(*args: P.args, **kwargs: P.kwargs) -> R:
                hash_of = expected(*args, **kwargs) if callable(expected) else expected
                with self.open_step(
                    name or function.__name__,
                    behavior=behavior,
                    key=_key(key, args, kwargs),
                    params=_bound(function, args, kwargs),
                    expected=hash_of,
                ) as step:
                    if step.must_run:
                        step.output = function(*args, **kwargs)
                return cast(R, step.output)

            return call

        return decorate

    @contextmanager
    def open_step(
        self,
        name: str,
        *,
        behavior: Behavior = "execute",
        key: str | None = None,
        params: Json = None,
        expected: str | None = None,
        index: int | None = None,
    ) -> Iterator[OpenStep]:
        """A step around a block: what must run stands under `if step.must_run`."""
        index, began = self._next(index), time.monotonic()
        params = {} if params is None else params
        result: StepResult | None = None
        error: BaseException | None = None
        try:
            body = _question(self.run_id, index, behavior, key, params, expected)
            said = self.client.decide(body)
            if said["action"] == "use_stored":
                result = StepResult.of(said)
                step = OpenStep(result.output, must_run=False)
                yield step
                step.output, step.result = result.output, result
                return
            token = str(said["token"])
            step = OpenStep(None, must_run=True)
            renewal = _Renewal(self.client, token, _renew_secs(said, key))
            try:
                try:
                    yield step
                except BaseException as raised:
                    # What the step raised is what its caller needs; a lease that stays runs out by itself.
                    try:
                        path = f"/api/v1/replay/steps/{token}/fail"
                        self.client.request("POST", path, {"error": repr(raised)})
                    except Exception:  # noqa: BLE001
                        pass
                    raise
                path = f"/api/v1/replay/steps/{token}/result"
                result = StepResult.of(self.client.request("POST", path, {"output": step.output}))
            finally:
                renewal.stop()
            step.output, step.result = result.output, result
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._record(_evidence(index, name, behavior, key, params, began, result, error), error)

    def _record(self, body: dict[str, Json], error: BaseException | None) -> None:
        try:
            self.client.request("POST", f"/api/v1/runs/{self.run_id}/steps", body)
        except Exception:
            # The step's own error comes first.
            if error is None:
                raise

    def complete(self, status: str = "completed", **fields: Json) -> dict[str, Any]:
        """Ends the run; `fields` are those of POST …/complete."""
        return self.client.request("POST", f"/api/v1/runs/{self.run_id}/complete", {"status": status, **fields})

    def report(self) -> dict[str, Any]:
        """What became of the steps: matched, skipped, executed, first divergence."""
        return self.client.request("GET", f"/api/v1/replay/runs/{self.run_id}")


class AsyncRun:
    """The same for asyncio."""

    def __init__(self, client: AsyncClient, run_id: str) -> None:
        self.client = client
        self.run_id = run_id
        self._indexes = itertools.count()

    def step(
        self,
        name: str | None = None,
        *,
        behavior: Behavior = "execute",
        key: Key = None,
        expected: Callable[..., str | None] | str | None = None,
    ) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
        """Makes each call of a coroutine function a step; see [Run.step]."""

        def decorate(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
            @functools.wraps(function)
            async def call(*args: P.args, **kwargs: P.kwargs) -> R:
                hash_of = expected(*args, **kwargs) if callable(expected) else expected
                async with self.open_step(
                    name or function.__name__,
                    behavior=behavior,
                    key=_key(key, args, kwargs),
                    params=_bound(function, args, kwargs),
                    expected=hash_of,
                ) as step:
                    if step.must_run:
                        step.output = await function(*args, **kwargs)
                return cast(R, step.output)

            return call

        return decorate

    @asynccontextmanager
    async def open_step(
        self,
        name: str,
        *,
        behavior: Behavior = "execute",
        key: str | None = None,
        params: Json = None,
        expected: str | None = None,
        index: int | None = None,
    ) -> AsyncIterator[AsyncOpenStep]:
        """A step around a block: what must run stands under `if step.must_run`."""
        index, began = next(self._indexes) if index is None else index, time.monotonic()
        params = {} if params is None else params
        result: StepResult | None = None
        error: BaseException | None = None
        try:
            body = _question(self.run_id, index, behavior, key, params, expected)
            said = await self.client.decide(body)
            if said["action"] == "use_stored":
                result = StepResult.of(said)
                step = AsyncOpenStep(result.output, must_run=False)
                yield step
                step.output, step.result = result.output, result
                return
            token = str(said["token"])
            step = AsyncOpenStep(None, must_run=True)
            renewal = asyncio.create_task(self._renew(token, _renew_secs(said, key)))
            try:
                try:
                    yield step
                except BaseException as raised:
                    # What the step raised is what its caller needs; a lease that stays runs out by itself.
                    try:
                        path = f"/api/v1/replay/steps/{token}/fail"
                        await self.client.request("POST", path, {"error": repr(raised)})
                    except Exception:  # noqa: BLE001
                        pass
                    raise
                path = f"/api/v1/replay/steps/{token}/result"
                result = StepResult.of(await self.client.request("POST", path, {"output": step.output}))
            finally:
                renewal.cancel()
            step.output, step.result = result.output, result
        except BaseException as raised:
            error = raised
            raise
        finally:
            evidence = _evidence(index, name, behavior, key, params, began, result, error)
            try:
                await self.client.request("POST", f"/api/v1/runs/{self.run_id}/steps", evidence)
            except Exception:
                # The step's own error comes first.
                if error is None:
                    raise

    async def _renew(self, token: str, secs: float | None) -> None:
        while secs is not None:
            await asyncio.sleep(secs)
            try:
                await self.client.request("POST", f"/api/v1/replay/steps/{token}/renew")
            except Exception as error:  # noqa: BLE001 - the result says whether the lease was lost
                if _is_over(error):
                    return

    async def complete(self, status: str = "completed", **fields: Json) -> dict[str, Any]:
        """Ends the run; `fields` are those of POST …/complete."""
        path = f"/api/v1/runs/{self.run_id}/complete"
        return await self.client.request("POST", path, {"status": status, **fields})

    async def report(self) -> dict[str, Any]:
        """What became of the steps: matched, skipped, executed, first divergence."""
        return await self.client.request("GET", f"/api/v1/replay/runs/{self.run_id}")
