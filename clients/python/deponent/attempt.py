"""A step on its way: what is asked, what came of it, what goes on record. No I/O: runs do that, each in its way."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .errors import (
    NO_CODE,
    ConflictError,
    DeponentError,
    LeaseLost,
    OutputNotKept,
    ParamsNotKept,
    StepNotRecorded,
)
from .types import INDEX_MAX, Behavior, Json, StepResult

# Renewed so often while a lease holds, two renewals may be lost.
RENEWALS_PER_LEASE = 3.0
# Of a server that does not say how long its leases hold: its default.
LEASE_SECS = 60.0
# Of integers; beyond it doubles skip some, and the server refuses them.
INTEGER_MAX = 2**53 - 1
# From here on a float is written with an exponent, and is no integer to the server.
EXPONENT_FROM = 1e21
# The server takes 128 levels, and the step around its parameters is one.
LEVELS_MAX = 127
NAME_BYTES_MAX = 256


def check_name(name: str) -> None:
    """Refuses a name that the record of a step cannot have."""
    long = not 1 <= len(name.encode(errors="replace")) <= NAME_BYTES_MAX
    if long or any(unicodedata.category(char) in ("Cc", "Cs") for char in name):
        raise ParamsNotKept("name", f"must have 1 to {NAME_BYTES_MAX} bytes, and no control characters")


def check_key(key: str | None) -> None:
    """Refuses a key that is none: with an empty one the step would run each time, where it was to run once."""
    if key is None:
        return
    long = not 1 <= len(key.encode(errors="replace")) <= NAME_BYTES_MAX
    if long or any(unicodedata.category(char) in ("Cc", "Cs") for char in key):
        raise ParamsNotKept("key", f"must have 1 to {NAME_BYTES_MAX} bytes, and no control characters; None is no key")


def check_index(index: int | None) -> None:
    """Refuses an index that no step can have: the steps after it would be counted on from it."""
    if index is not None and not 0 <= index <= INDEX_MAX:
        raise ParamsNotKept("index", f"must be 0 to {INDEX_MAX}")


def kept(
    value: Json, where: str, levels: int = LEVELS_MAX, other: Callable[[Any], str] | None = None
) -> Json:
    """A copy of parameters, as they will be on record whatever the step does to them; refuses what the server would.

    What is no JSON is what `other` makes of it, if there is one.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ParamsNotKept(where, "a lone surrogate is no text") from error
        return value
    if isinstance(value, (int, float)):
        if not -INTEGER_MAX <= value <= INTEGER_MAX:
            if isinstance(value, float) and not math.isfinite(value):
                raise ParamsNotKept(where, f"{value} is no JSON")
            if isinstance(value, int) or abs(value) < EXPONENT_FROM:
                raise ParamsNotKept(where, "an integer beyond ±(2^53-1)")
        return value
    if not isinstance(value, (dict, list, tuple)):
        if other is None:
            raise ParamsNotKept(where, f"{type(value).__name__} is no JSON")
        return kept(other(value), where)
    if levels == 0:
        raise ParamsNotKept(where.partition("[")[0], f"nested deeper than {LEVELS_MAX} levels")
    if not isinstance(value, dict):
        return [kept(item, f"{where}[{at}]", levels - 1, other) for at, item in enumerate(value)]
    for key in value:
        if not isinstance(key, str):
            raise ParamsNotKept(where, f"the key {key!r} is no text")
        kept(key, f"{where}, the key {key!r}")
    return {key: kept(item, f"{where}[{key!r}]", levels - 1, other) for key, item in value.items()}


def input_hash(value: Json) -> str:
    """SHA-256 over the input, the same for equal inputs of this client."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def arguments(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Json]:
    """The arguments by name, as JSON; what is none stands as its repr."""
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return {
        name: kept(value, f"argument {name}", LEVELS_MAX - 1, repr) for name, value in bound.arguments.items()
    }


def is_over(error: Exception) -> bool:
    """Whether no renewal can succeed any more. After all else, the next one may, also after a 404 that is a proxy's."""
    if isinstance(error, LeaseLost):
        return True
    return isinstance(error, DeponentError) and error.status == 404 and error.code != NO_CODE


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
        # How long its lease holds; `None`: without a key there is none.
        self.lease_secs: float | None = None
        self.result: StepResult | None = None

    def question(self) -> dict[str, Json]:
        body: dict[str, Json] = {
            "run_id": self.run_id, "step_index": self.index, "replay_behavior": self.behavior,
        }
        self._with_key(body)
        if self.expected is not None:
            body["output_hash"] = self.expected
        return body

    def decided(self, said: dict[str, Any]) -> OpenStep:
        if said["action"] == "use_stored":
            self.result = StepResult.of(said)
            self.step = OpenStep(self.result.output, must_run=False)
        else:
            self.path = f"/api/v1/replay/steps/{said['token']}"
            if self.key:
                secs = said.get("lease_secs")
                self.lease_secs = LEASE_SECS if secs is None else float(secs)
        return self.step

    @property
    def renew_secs(self) -> float | None:
        """How often its lease is renewed."""
        return None if self.lease_secs is None else self.lease_secs / RENEWALS_PER_LEASE

    def is_late(self) -> bool:
        """Whether the decision was so long on its way that its lease may be over before it is first renewed."""
        return self.renew_secs is not None and time.monotonic() - self.began >= self.renew_secs

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
        except ConflictError:
            raise
        except Exception as error:
            # Whatever it is, it must not be taken for one after which nothing has run.
            raise OutputNotKept(output, error) from error

    def brought(self, answer: dict[str, Any]) -> None:
        """What the server says to the output."""
        self.result = StepResult.of(answer)

    def done(self) -> None:
        """The block is left: what came of it is its step's."""
        if self.result is not None:
            self.step.output, self.step.result = self.result.output, self.result

    @contextmanager
    def recording(self, error: BaseException | None) -> Iterator[dict[str, Json]]:
        """The step as the run has it on record, around its sending. `error` ended the step, and comes first."""
        try:
            yield self._evidence(error)
        except Exception as failed:
            if error is None:
                # What came out is its caller's, whatever became of its record.
                raise StepNotRecorded(self.step.output, failed) from failed

    def _evidence(self, error: BaseException | None) -> dict[str, Json]:
        result = self.result
        stored = result is not None and result.from_cache
        # A step whose output is stored is done, whatever ended the waiting for the answer.
        failed = error if result is None or not result.executed else None
        body: dict[str, Json] = {
            "step_index": self.index,
            "skill_name": self.name,
            "params": self.params if isinstance(self.params, dict) else {"input": self.params},
            "status": "failure" if failed is not None else "skipped" if stored else "success",
            "outcome_category": "failure" if failed is not None else "success",
            "duration_ms": (time.monotonic() - self.began) * 1000.0,
            "replay_behavior": self.behavior,
            "source": "replay" if stored else "external",
        }
        if failed is not None:
            body["outcome_code"] = type(failed).__name__
        if result is not None:
            body["outcome_data"] = result.output
            body["output_hash"] = result.output_hash
        self._with_key(body)
        return body

    def _with_key(self, body: dict[str, Json]) -> None:
        if self.key:
            body["idempotency_key"] = self.key
            body["input_hash"] = input_hash(self.params)
