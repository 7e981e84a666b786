"""Runs, and the steps that are done in them.

A step is asked for before it is done. What the server says decides: run the
function and bring what came out, or take the output that is stored. Either way it
is on record twice: as the enforcement, and as a step of the run.

`with` makes a run the current one, for `deponent.step`, and ends it. What is the
same for `Client` and `AsyncClient` is in attempt.py and decorate.py.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote

from . import answers
from .attempt import LEVELS_MAX, Attempt, OpenStep, check_index, check_key, check_name, is_over, kept
from .current import enter, leave
from .decorate import Expected, Key, P, R, decorated
from .types import Behavior, Json

if TYPE_CHECKING:
    from .client import AsyncClient, Client

AsyncOpenStep = OpenStep
T = TypeVar("T")


def _segment(text: str) -> str:
    """A text as one segment of a path. `.` and `..` would be resolved if they were not escaped, which `quote` does not."""
    return text.replace(".", "%2E") if text in (".", "..") else quote(text, safe="")


class _Steps:
    """What runs have in common: their name, their count of steps, and being the current one."""

    def __init__(self, run_id: str, ends: bool, new: bool) -> None:
        self.run_id = run_id
        # Whether leaving `with` ends it; not when it was started elsewhere, or is ended.
        self._ends = ends
        # The index of the next step that is given none, once the steps on record are counted; of a new run, at once.
        self._next = 0
        self._counted = new
        self._lock = threading.Lock()
        self._entered = 0

    def _attempt(
        self,
        name: str,
        behavior: Behavior,
        key: str | None,
        params: Json,
        expected: str | None,
        index: int | None,
    ) -> Attempt:
        with self._lock:
            index = self._next if index is None else index
            self._next = max(self._next, index + 1)
        return Attempt(self.run_id, index, name, behavior, key, params, expected)

    def _enter(self) -> None:
        with self._lock:
            self._entered += 1
        enter(self)

    def _leave(self) -> bool:
        """Whether the run is to be ended now."""
        leave()
        with self._lock:
            self._entered -= 1
            return self._ends and self._entered == 0

    def _path(self, what: str) -> str:
        return f"/api/v1/runs/{_segment(self.run_id)}/{what}"

    @property
    def _report_path(self) -> str:
        return f"/api/v1/replay/runs/{_segment(self.run_id)}"

    def _page_path(self, cursor: str | None) -> str:
        """Where the steps on record are read."""
        path = f"/api/v1/logs/llm-runs/{_segment(self.run_id)}/trace"
        return path if cursor is None else f"{path}?cursor={quote(cursor, safe='')}"

    def _count(self, page: dict[str, Any]) -> str | None:
        """Counts on from the steps of a page; gives the cursor of the next one."""
        cursor: str | None = page["next_cursor"]
        with self._lock:
            self._next = max([self._next, *(step["step_index"] + 1 for step in page["steps"])])
            if cursor is None:
                self._counted = True
        return cursor

    def step(
        self,
        name: str | None = None,
        *,
        behavior: Behavior = "execute",
        key: Key = None,
        expected: Expected = None,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Makes each call of a function, or coroutine function, a step of this run; see `deponent.step`."""
        return lambda function: decorated(function, lambda: self, name, behavior, key, expected)


class _Renewal:
    """Renews a lease until told to stop, on a thread of its own."""

    def __init__(self, client: Client, attempt: Attempt) -> None:
        self._stop = threading.Event()
        if attempt.renew_secs is not None:
            threading.Thread(target=self._renew, args=(client, attempt), daemon=True).start()

    def _renew(self, client: Client, attempt: Attempt) -> None:
        while not self._stop.wait(attempt.renew_secs):
            try:
                client.request("POST", f"{attempt.path}/renew", check=answers.nothing)
            except Exception as error:  # noqa: BLE001 - the result says whether the lease was lost
                if is_over(error):
                    return

    def stop(self) -> None:
        self._stop.set()


class Run(_Steps):
    """A run. Steps are counted in the order in which they are begun; unless it is `new`, on from those on record."""

    def __init__(self, client: Client, run_id: str, *, ends: bool = False, new: bool = False) -> None:
        super().__init__(run_id, ends, new)
        self.client = client

    def __enter__(self) -> Self:
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._leave():
            return
        if error is None:
            self.complete()
        else:
            # What went wrong in the block is what its caller needs.
            with suppress(Exception):
                self.complete("failed")

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
        check_name(name)
        check_index(index)
        check_key(key)
        params = kept(params, "params", LEVELS_MAX if isinstance(params, dict) else LEVELS_MAX - 1)
        if index is None:
            self._count_steps()
        attempt = self._attempt(name, behavior, key, params, expected, index)
        error: BaseException | None = None
        try:
            step = attempt.decided(self.client.decide(attempt.question()))
            if attempt.is_late():
                # Without a lease another may be at it.
                self.client.request("POST", f"{attempt.path}/renew", check=answers.nothing)
            renewal = _Renewal(self.client, attempt)
            try:
                try:
                    yield step
                except BaseException as raised:
                    # What the step raised is what its caller needs; a lease that stays runs out by itself.
                    with suppress(Exception):
                        self._free(attempt, raised)
                    raise
                if attempt.path is not None:
                    with attempt.bringing() as body:
                        path, patience_secs = f"{attempt.path}/result", attempt.lease_secs or 0.0
                        answer = self.client.request(
                            "POST", path, body, patience_secs=patience_secs, check=answers.result
                        )
                        attempt.brought(answer)
            finally:
                renewal.stop()
            attempt.done()
        except BaseException as raised:
            error = raised
            raise
        finally:
            with attempt.recording(error) as body:
                check = answers.recorded(self.run_id, attempt.index)
                self.client.request("POST", self._path("steps"), body, check=check)

    def _count_steps(self) -> None:
        """Has the next step counted on from those on record."""
        cursor: str | None = None
        while not self._counted:
            path, check = self._page_path(cursor), answers.page(cursor)
            cursor = self._count(self.client.request("GET", path, check=check))

    def _free(self, attempt: Attempt, raised: BaseException) -> None:
        if attempt.path is not None:
            path, body = f"{attempt.path}/fail", {"error": repr(raised)}
            self.client.request("POST", path, body, check=answers.nothing)

    def complete(self, status: str = "completed", **fields: Json) -> dict[str, Any]:
        """Ends the run; `fields` are those of POST …/complete."""
        body, check = {"status": status, **fields}, answers.ended(self.run_id)
        answer = self.client.request("POST", self._path("complete"), body, check=check)
        self._ends = False
        return answer

    def report(self) -> dict[str, Any]:
        """What became of the steps: matched, skipped, executed, first divergence."""
        return self.client.request("GET", self._report_path, check=answers.report(self.run_id))


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Awaits what must not be left undone: whoever is cancelled meanwhile hears of it afterwards."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    raise cancelled from (None if task.cancelled() else task.exception())


class AsyncRun(_Steps):
    """The same for asyncio."""

    def __init__(self, client: AsyncClient, run_id: str, *, ends: bool = False, new: bool = False) -> None:
        super().__init__(run_id, ends, new)
        self.client = client

    async def __aenter__(self) -> Self:
        self._enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._leave():
            return
        if error is None:
            await to_its_end(self.complete())
        else:
            # What went wrong in the block is what its caller needs.
            with suppress(Exception):
                await to_its_end(self.complete("failed"))

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
    ) -> AsyncIterator[OpenStep]:
        """A step around a block: what must run stands under `if step.must_run`."""
        check_name(name)
        check_index(index)
        check_key(key)
        params = kept(params, "params", LEVELS_MAX if isinstance(params, dict) else LEVELS_MAX - 1)
        if index is None:
            await self._count_steps()
        attempt = self._attempt(name, behavior, key, params, expected, index)
        error: BaseException | None = None
        try:
            step = attempt.decided(await self.client.decide(attempt.question()))
            if attempt.is_late():
                # Without a lease another may be at it.
                await self.client.request("POST", f"{attempt.path}/renew", check=answers.nothing)
            renewal = asyncio.create_task(self._renew(attempt))
            try:
                try:
                    yield step
                except BaseException as raised:
                    # What the step raised is what its caller needs; a lease that stays runs out by itself.
                    with suppress(Exception):
                        await to_its_end(self._free(attempt, raised))
                    raise
                if attempt.path is not None:
                    await to_its_end(self._bring(attempt))
            finally:
                renewal.cancel()
            attempt.done()
        except BaseException as raised:
            error = raised
            raise
        finally:
            with attempt.recording(error) as body:
                check = answers.recorded(self.run_id, attempt.index)
                await to_its_end(self.client.request("POST", self._path("steps"), body, check=check))

    async def _count_steps(self) -> None:
        """Has the next step counted on from those on record."""
        cursor: str | None = None
        while not self._counted:
            path, check = self._page_path(cursor), answers.page(cursor)
            cursor = self._count(await self.client.request("GET", path, check=check))

    async def _bring(self, attempt: Attempt) -> None:
        with attempt.bringing() as body:
            path, patience_secs = f"{attempt.path}/result", attempt.lease_secs or 0.0
            answer = await self.client.request(
                "POST", path, body, patience_secs=patience_secs, check=answers.result
            )
            attempt.brought(answer)

    async def _free(self, attempt: Attempt, raised: BaseException) -> None:
        if attempt.path is not None:
            path, body = f"{attempt.path}/fail", {"error": repr(raised)}
            await self.client.request("POST", path, body, check=answers.nothing)

    async def _renew(self, attempt: Attempt) -> None:
        while attempt.renew_secs is not None:
            await asyncio.sleep(attempt.renew_secs)
            try:
                await self.client.request("POST", f"{attempt.path}/renew", check=answers.nothing)
            except Exception as error:  # noqa: BLE001 - the result says whether the lease was lost
                if is_over(error):
                    return

    async def complete(self, status: str = "completed", **fields: Json) -> dict[str, Any]:
        """Ends the run; `fields` are those of POST …/complete."""
        body, check = {"status": status, **fields}, answers.ended(self.run_id)
        answer = await self.client.request("POST", self._path("complete"), body, check=check)
        self._ends = False
        return answer

    async def report(self) -> dict[str, Any]:
        """What became of the steps: matched, skipped, executed, first divergence."""
        return await self.client.request("GET", self._report_path, check=answers.report(self.run_id))
