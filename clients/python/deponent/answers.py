"""What an answer must have before it is believed: something between client and server may have given it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from .errors import BadAnswer

NO_CONTENT = 204
# The longest that the server gives.
LEASE_SECS_MAX = 3600

# Says what an answer lacks; `None`: nothing.
Check = Callable[[dict[str, Any]], str | None]


def anything(answer: dict[str, Any]) -> str | None:
    """Of what nobody reads."""
    return None


def nothing(answer: dict[str, Any]) -> str | None:
    """Of what is answered without content."""
    return "it should say nothing" if answer else None


def started(answer: dict[str, Any]) -> str | None:
    """Of a run that was begun."""
    return _text(answer, "run_id")


def decision(answer: dict[str, Any]) -> str | None:
    """What to do about a step. Where it is neither of the two, nothing may run and nothing is done."""
    action = answer.get("action")
    if action == "use_stored":
        return result(answer)
    if action != "execute":
        return f"its action is {action!r:.40}"
    secs = answer.get("lease_secs")
    is_number = isinstance(secs, (int, float)) and not isinstance(secs, bool)
    if secs is not None and not (is_number and 0 < secs <= LEASE_SECS_MAX):
        return f"its lease_secs is {secs!r:.40}"
    return _text(answer, "token")


def result(answer: dict[str, Any]) -> str | None:
    """What became of a step."""
    if "output" not in answer:
        return "it has no output"
    for name in ("executed", "skipped", "checked", "from_cache"):
        if not isinstance(answer.get(name), bool):
            return f"its {name} is neither true nor false"
    return _text(answer, "output_hash")


def page(answer: dict[str, Any]) -> str | None:
    """A page of the steps of a run."""
    steps, cursor = answer.get("steps"), answer.get("next_cursor")
    if not isinstance(steps, list):
        return "its steps are no list"
    for step in steps:
        index = step.get("step_index") if isinstance(step, dict) else None
        if not isinstance(index, int) or isinstance(index, bool):
            return "one of its steps has no step_index"
    if cursor is not None and not (isinstance(cursor, str) and cursor):
        return "its next_cursor is no text"
    return None


def read(response: httpx.Response, check: Check) -> dict[str, Any]:
    """The answer of a success; refuses one that is not what the server says."""
    if response.status_code == NO_CONTENT:
        answer: Any = {}
    else:
        try:
            answer = response.json()
        except (ValueError, RecursionError) as error:
            raise BadAnswer("it is no JSON", response) from error
    if not isinstance(answer, dict):
        raise BadAnswer("it is no JSON object", response)
    if (why := check(answer)) is not None:
        raise BadAnswer(why, response)
    return answer


def _text(answer: dict[str, Any], name: str) -> str | None:
    value = answer.get(name)
    return None if isinstance(value, str) and value else f"it has no {name}"
