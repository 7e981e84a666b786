"""Why a step was not done, or not believed."""

from __future__ import annotations

from typing import Any

import httpx


class DeponentError(Exception):
    """The server refused. `code` is stable, `problem` the whole problem document."""

    def __init__(self, message: str, code: str, status: int, problem: dict[str, Any]) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.problem = problem


class NoRun(RuntimeError):
    """`deponent.step` was used where no run is current."""


class ParamsNotKept(ValueError):
    """A parameter cannot be on record. Nothing was asked and nothing ran."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}; nothing ran")


class OutputNotKept(RuntimeError):
    """The step ran, and its output, here as `output`, is not known to be stored.

    It is no JSON, or the server refuses it, or does not answer as long as a lease holds.
    """

    def __init__(self, output: Any, why: object) -> None:
        super().__init__(
            f"the step ran, and its output is not known to be kept: {why}; a lease on its key is left to run out"
        )
        self.output = output


class StepNotRecorded(RuntimeError):
    """The step is done, with what came out here as `output`, and is not known to be a step of the run.

    Why is `__cause__`: what was raised when it was to be recorded. With a key its output is stored, and the same
    step again is that output; without one the step would run again.
    """

    def __init__(self, output: Any, why: object) -> None:
        super().__init__(f"the step is done, and is not known to be on record as a step of its run: {why}")
        self.output = output


class ConflictError(DeponentError):
    """The server knows something else under the same name."""


class ReplayMismatch(ConflictError):
    """The output is not the one that was expected. It was not stored."""

    @property
    def step_index(self) -> int:
        return int(self.problem["step_index"])

    @property
    def expected_hash(self) -> str:
        return str(self.problem["expected_hash"])

    @property
    def actual_hash(self) -> str:
        return str(self.problem["actual_hash"])


class IdempotencyViolation(ConflictError):
    """The key is known with another input. Nothing ran."""

    @property
    def key(self) -> str:
        return str(self.problem["key"])


class InProgress(ConflictError):
    """Another is doing the same step now."""


class LeaseLost(ConflictError):
    """Another has taken the step over meanwhile. What came out is not kept."""


class Unavailable(DeponentError):
    """The server cannot answer now, or nobody does: `code` is `unreachable` then, and `status` 0.

    Nothing may be done that must be done once.
    """


# Characters of an answer that an error shows.
SHOWN_CHARS = 200


class BadAnswer(DeponentError):
    """What answered is not Deponent (a proxy's page, say), or its answer lacks what it must have: `code` is `bad_answer`.

    Nothing of it is believed: no step runs for it, and none counts as done. `text` is how the answer begins.
    """

    def __init__(self, why: str, response: httpx.Response) -> None:
        self.content_type = response.headers.get("content-type", "")[:SHOWN_CHARS]
        self.text = _beginning(response)
        super().__init__(
            f"the answer is none that the server gives: {why}; {_described(response)}",
            "bad_answer", response.status_code, {},
        )


_BY_CODE: dict[str, type[DeponentError]] = {
    "replay_mismatch": ReplayMismatch,
    "idempotency_violation": IdempotencyViolation,
    "replay_in_progress": InProgress,
    "lease_lost": LeaseLost,
}

# What such a refusal has beside.
_FIELDS: dict[str, tuple[tuple[str, type], ...]] = {
    "replay_mismatch": (("step_index", int), ("expected_hash", str), ("actual_hash", str)),
    "idempotency_violation": (("key", str),),
}

# Of a refusal that has none: something else than the server has answered.
NO_CODE = "unknown"

# Answered so before anything was done, or after a failure of the other side's.
AWAY = frozenset({429, 502, 503, 504})

# The request was answered before, and the answer is not to be had.
UNKNOWN_BEFORE = frozenset({"answer_not_kept", "earlier_outcome_unknown"})


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        problem = response.json()
    except (ValueError, RecursionError):
        return {}
    return problem if isinstance(problem, dict) else {}


def code_of(response: httpx.Response) -> str:
    """The stable code of a refusal."""
    code = _problem(response).get("code")
    return code if isinstance(code, str) and code else NO_CODE


def _beginning(response: httpx.Response) -> str:
    # No character has more than four bytes.
    return response.content[: 4 * SHOWN_CHARS].decode(errors="replace")[:SHOWN_CHARS]


def _described(response: httpx.Response) -> str:
    kind = response.headers.get("content-type", "")[:SHOWN_CHARS]
    return f"status {response.status_code}, content type {kind!r}, {_beginning(response)!r}"


def unreachable(error: httpx.RequestError) -> Unavailable:
    """What is raised when nobody answers, or with what cannot be unpacked."""
    return Unavailable(f"the server does not answer: {error!r}", "unreachable", 0, {})


def raise_for(response: httpx.Response) -> None:
    """Raises what the answer says, if it is no success."""
    if response.is_success:
        return
    problem = _problem(response)
    code = code_of(response)
    if any(not isinstance(problem.get(name), of) for name, of in _FIELDS.get(code, ())):
        raise BadAnswer(f"it says {code}, and not what of it", response)
    said = problem.get("detail")
    message = said if isinstance(said, str) and said else f"the server refuses: {_described(response)}"
    status = response.status_code
    kind = _BY_CODE.get(code)
    if kind is None:
        # A conflict says that the server knows something else: who says nothing of it may be a proxy.
        conflict = status == 409 and code != NO_CODE
        kind = ConflictError if conflict else Unavailable if status in AWAY else DeponentError
    raise kind(message, code, status, problem)
