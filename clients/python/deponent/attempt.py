"""A step on its way: what is asked, what came of it, what goes on record. No I/O: runs do that, each in its way."""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from .errors import OUTPUT_REFUSED, DeponentError, LeaseLost, OutputNotKept
from .types import Behavior, Json, StepResult

# Renewed so often while a lease holds, two renewals may be lost.
RENEWALS_PER_LEASE = 3.0
# Of a server that does not say how long its leases hold: its default.
LEASE_SECS = 60.0


def input_hash(value: Json) -> str:
    """SHA-256 over the input, the same for equal inputs of this client."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def arguments(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Json]:
    """The arguments by name, as JSON; what is none stands as its repr."""
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return cast(dict[str, Json], json.loads(json.dumps(dict(bound.arguments), default=repr)))


def is_over(error: Exception) -> bool:
    """Whether no renewal can succeed any more. After all else, the next one may."""
    return isinstance(error, LeaseLost) or (isinstance(error, DeponentError) and error.status == 404)


class OpenStep:
    """A step that is being done: set `output` if `must_run`, else take it."""

    def __init__(self, output: Json, must_run: bool) -> None:
        self.output: Json = output
        self.must_run = must_run
        self.result: StepResult | None = None


class Attempt:
    """One step of a run, from the question to what goes on record."""

    def __init__(
        self,
        run_id: str,
        index: int,
        name: str,
        behavior: Behavior,
        key: str | None,
        params: Json,
        expected: str | None,
    ) -> None:
        self.run_id = run_id
        self.index = index
        self.name = name
        self.behavior = behavior
        self.key = key
        self.params: Json = {} if params is None else params
        self.expected = expected
        self.began = time.monotonic()
        self.step = OpenStep(None, must_run=True)
        # Of a step that must run, after the decision.
        self.path: str | None = None
        # How often its lease is renewed; `None`: without a key there is none.
        self.renew_secs: float | None = None
        self.result: StepResult | None = None

    def question(self) -> dict[str, Json]:
        body: dict[str, Json] = {
            "run_id": self.run_id, "step_index": self.index, "replay_behavior": self.behavior,
        }
        self._with_key(body)
        if self.expected:
            body["output_hash"] = self.expected
        return body

    def decided(self, said: dict[str, Any]) -> OpenStep:
        if said["action"] == "use_stored":
            self.result = StepResult.of(said)
            self.step = OpenStep(self.result.output, must_run=False)
        else:
            self.path = f"/api/v1/replay/steps/{said['token']}"
            if self.key:
                self.renew_secs = float(said.get("lease_secs", LEASE_SECS)) / RENEWALS_PER_LEASE
        return self.step

    @contextmanager
    def bringing(self) -> Iterator[dict[str, Json]]:
        """The body that brings the output, around its sending."""
        output = self.step.output
        body: dict[str, Json] = {"output": output}
        try:
            # As it is sent. Tried apart from that: a failure of the sending is not the output's.
            json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise OutputNotKept(output, error) from error
        try:
            yield body
        except DeponentError as error:
            if error.status not in OUTPUT_REFUSED:
                raise
            raise OutputNotKept(output, error) from error

    def brought(self, answer: dict[str, Any]) -> None:
        """What the server says to the output."""
        self.result = StepResult.of(answer)

    def done(self) -> None:
        """The block is left: what came of it is its step's."""
        if self.result is not None:
            self.step.output, self.step.result = self.result.output, self.result

    def evidence(self, error: BaseException | None) -> dict[str, Json]:
        """The step as the run has it on record."""
        result = self.result
        stored = result is not None and result.from_cache
        body: dict[str, Json] = {
            "step_index": self.index,
            "skill_name": self.name,
            "params": self.params if isinstance(self.params, dict) else {"input": self.params},
            "status": "failure" if error is not None else "skipped" if stored else "success",
            "outcome_category": "failure" if error is not None else "success",
            "duration_ms": (time.monotonic() - self.began) * 1000.0,
            "replay_behavior": self.behavior,
            "source": "replay" if stored else "external",
        }
        if error is not None:
            body["outcome_code"] = type(error).__name__
        if result is not None:
            body["outcome_data"] = result.output
            body["output_hash"] = result.output_hash
        self._with_key(body)
        return body

    def _with_key(self, body: dict[str, Json]) -> None:
        if self.key:
            body["idempotency_key"] = self.key
            body["input_hash"] = input_hash(self.params)
