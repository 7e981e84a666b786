"""Connections to a server, and what they retry.

What is retried is safe to send again: results and steps have an identity, new
runs and decisions an `Idempotency-Key`. So a decision whose answer was lost is
answered again, and the lease that it gave is not held by nobody. So is what comes
with a success and is no answer of the server: what it said was lost on its way.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from itertools import count
from types import TracebackType
from typing import Any, Self

import httpx

from . import answers
from .answers import Check, read
from .errors import AWAY, NO_CODE, UNKNOWN_BEFORE, BadAnswer, ConflictError, code_of, raise_for, unreachable
from .runs import AsyncRun, Run
from .types import Json

# Tries of one request in all, unless it has patience, and the first pause between two; each is twice the one before.
TRIES_MAX = 5
PAUSE_SECS = 0.1
# Longest pause that a server's Retry-After is given.
PAUSE_SECS_MAX = 5.0
TIMEOUT_SECS = 30.0
# Of a run that was not there; of one that was, as it was begun, the answer is 200.
CREATED = 201


def _headers(api_key: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


def _pause(attempt: int, response: httpx.Response | None) -> float:
    said = response.headers.get("retry-after", "") if response is not None else ""
    if said.isdecimal():
        return min(float(said), PAUSE_SECS_MAX)
    return float(min(PAUSE_SECS * 2**attempt, PAUSE_SECS_MAX))


def _again(response: httpx.Response) -> bool:
    """Whether to send it again: also while its first sending is still being answered."""
    if response.status_code in AWAY:
        return True
    # No refusal of the server's is without a code: something else has answered.
    if not response.is_success and code_of(response) == NO_CODE:
        return True
    return response.status_code == 409 and code_of(response) == "idempotency_in_progress"


def _run_body(run_id: str | None, fields: dict[str, Json]) -> dict[str, Json]:
    return fields if run_id is None else {"run_id": run_id, **fields}


class Client:
    """A connection to a server. Use it as a context manager, or close it."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:4318",
        api_key: str | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(
            base_url=url, headers=_headers(api_key), timeout=TIMEOUT_SECS, transport=transport
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        body: Json = None,
        *,
        idempotency_key: str | None = None,
        patience_secs: float = 0.0,
        check: Check = answers.anything,
    ) -> dict[str, Any]:
        """One request, tried again while the server is busy or away: five times, and as long as `patience_secs`.

        An answer that is no JSON object, or of which `check` says that it lacks something, is `BadAnswer`.
        """
        _, answer = self._answer(method, path, body, idempotency_key, check, patience_secs)
        return answer

    def _answer(
        self,
        method: str,
        path: str,
        body: Json,
        idempotency_key: str | None,
        check: Check,
        patience_secs: float = 0.0,
    ) -> tuple[int, dict[str, Any]]:
        """The status of a success, and what it says."""
        headers = {"idempotency-key": f'"{idempotency_key}"'} if idempotency_key else {}
        until = time.monotonic() + patience_secs
        for attempt in count():
            last = attempt + 1 >= TRIES_MAX and time.monotonic() >= until
            response: httpx.Response | None = None
            try:
                response = self._http.request(method, path, json=body, headers=headers)
            except (httpx.TransportError, httpx.DecodingError) as error:
                if last:
                    raise unreachable(error) from error
            if response is not None and (last or not _again(response)):
                raise_for(response)
                try:
                    return response.status_code, read(response, check)
                except BadAnswer:
                    if last:
                        raise
            time.sleep(_pause(attempt, response))
        raise AssertionError("unreachable")

    def decide(self, body: dict[str, Json]) -> dict[str, Any]:
        """What to do about a step."""
        try:
            return self._decision(body)
        except ConflictError as error:
            if error.code not in UNKNOWN_BEFORE:
                raise
            # Nothing ran: asking anew finds the stored output, or says who holds the step.
            return self._decision(body)

    def _decision(self, body: dict[str, Json]) -> dict[str, Any]:
        key, check = str(uuid.uuid4()), answers.decision
        return self.request("POST", "/api/v1/replay/steps", body, idempotency_key=key, check=check)

    def run(self, run_id: str | None = None, **fields: Json) -> Run:
        """Starts a run; `fields` are those of POST /api/v1/runs. `with` makes it the current one, and ends it."""
        body = _run_body(run_id, fields)
        status, run = self._answer("POST", "/api/v1/runs", body, str(uuid.uuid4()), answers.started(run_id))
        return Run(self, run["run_id"], ends=True, new=status == CREATED)

    def attach(self, run_id: str) -> Run:
        """A run that was started elsewhere. `with` makes it the current one, and does not end it."""
        return Run(self, run_id)


class AsyncClient:
    """The same for asyncio."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:4318",
        api_key: str | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(
            base_url=url, headers=_headers(api_key), timeout=TIMEOUT_SECS, transport=transport
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def request(
        self,
        method: str,
        path: str,
        body: Json = None,
        *,
        idempotency_key: str | None = None,
        patience_secs: float = 0.0,
        check: Check = answers.anything,
    ) -> dict[str, Any]:
        """One request, tried again while the server is busy or away: five times, and as long as `patience_secs`.

        An answer that is no JSON object, or of which `check` says that it lacks something, is `BadAnswer`.
        """
        _, answer = await self._answer(method, path, body, idempotency_key, check, patience_secs)
        return answer

    async def _answer(
        self,
        method: str,
        path: str,
        body: Json,
        idempotency_key: str | None,
        check: Check,
        patience_secs: float = 0.0,
    ) -> tuple[int, dict[str, Any]]:
        """The status of a success, and what it says."""
        headers = {"idempotency-key": f'"{idempotency_key}"'} if idempotency_key else {}
        until = time.monotonic() + patience_secs
        for attempt in count():
            last = attempt + 1 >= TRIES_MAX and time.monotonic() >= until
            response: httpx.Response | None = None
            try:
                response = await self._http.request(method, path, json=body, headers=headers)
            except (httpx.TransportError, httpx.DecodingError) as error:
                if last:
                    raise unreachable(error) from error
            if response is not None and (last or not _again(response)):
                raise_for(response)
                try:
                    return response.status_code, read(response, check)
                except BadAnswer:
                    if last:
                        raise
            await asyncio.sleep(_pause(attempt, response))
        raise AssertionError("unreachable")

    async def decide(self, body: dict[str, Json]) -> dict[str, Any]:
        """What to do about a step."""
        try:
            return await self._decision(body)
        except ConflictError as error:
            if error.code not in UNKNOWN_BEFORE:
                raise
            # Nothing ran: asking anew finds the stored output, or says who holds the step.
            return await self._decision(body)

    async def _decision(self, body: dict[str, Json]) -> dict[str, Any]:
        key, check = str(uuid.uuid4()), answers.decision
        return await self.request("POST", "/api/v1/replay/steps", body, idempotency_key=key, check=check)

    async def run(self, run_id: str | None = None, **fields: Json) -> AsyncRun:
        """Starts a run; `fields` are those of POST /api/v1/runs."""
        body = _run_body(run_id, fields)
        status, run = await self._answer("POST", "/api/v1/runs", body, str(uuid.uuid4()), answers.started(run_id))
        return AsyncRun(self, run["run_id"], ends=True, new=status == CREATED)

    def attach(self, run_id: str) -> AsyncRun:
        """A run that was started elsewhere."""
        return AsyncRun(self, run_id)
