"""What an answer must have before it is believed: something between client and server may have given it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeGuard

import httpx

from .errors import BadAnswer
from .types import INDEX_MAX

NO_CONTENT = 204
# The longest that the server gives.
LEASE_SECS_MAX = 3600
# A token is a segment of a path.
TOKEN = re.compile(r"[A-Za-z0-9_-]+")
OUTPUT_HASH = re.compile(r"[0-9a-f]{64}")
# Numbers of a report that every report has.
COUNTS = ("total", "executed", "skipped", "matched", "mismatched", "violated", "differed")

# Says what an answer lacks; `None`: nothing.
Check = Callable[[dict[str, Any]], str | None]


def anything(answer: dict[str, Any]) -> str | None:
    """Of what nobody reads."""
    return None


def nothing(answer: dict[str, Any]) -> str | None:
    """Of what is answered without content: `read` takes nothing else for it, not even `{}`."""
    return "it should say nothing" if answer else None


def started(run_id: str | None) -> Check:
    """Of a run that was begun, under that id if one was given."""
    return lambda answer: _text(answer, "run_id") if run_id is None else _same(answer, "run_id", run_id)


def recorded(run_id: str, index: int) -> Check:
    """Of a step that is on record."""
    return lambda answer: _same(answer, "run_id", run_id) or _same(answer, "step_index", index) or _receipt(answer)


def ended(run_id: str) -> Check:
    """Of a run that has ended."""
    return lambda answer: _same(answer, "run_id", run_id) or _text(answer, "status") or _receipt(answer)


def report(run_id: str) -> Check:
    """What became of the steps of a run."""

    def check(answer: dict[str, Any]) -> str | None:
        if (why := _same(answer, "run_id", run_id)) is not None:
            return why
        for name in COUNTS:
            if not _is_integer(answer.get(name)):
                return f"its {name} is no number"
        if not isinstance(answer.get("steps"), list):
            return "its steps are no list"
        first = answer.get("first_divergence", "")
        return None if first is None or isinstance(first, dict) else "its first_divergence is none"

    return check


def decision(answer: dict[str, Any]) -> str | None:
    """What to do about a step. Where it is neither of the two, nothing may run and nothing is done."""
    action = answer.get("action")
    if action == "use_stored":
        return _outcome(answer, executed=False)
    if action != "execute":
        return f"its action is {action!r:.40}"
    secs = answer.get("lease_secs")
    is_number = isinstance(secs, (int, float)) and not isinstance(secs, bool)
    if secs is not None and not (is_number and 0 < secs <= LEASE_SECS_MAX):
        return f"its lease_secs is {secs!r:.40}"
    return _form(answer, "token", TOKEN)


def result(answer: dict[str, Any]) -> str | None:
    """What became of a step that ran."""
    return _outcome(answer, executed=True)


def page(cursor: str | None) -> Check:
    """A page of the steps of a run, the one at `cursor`; `None`: the first."""

    def check(answer: dict[str, Any]) -> str | None:
        steps, following = answer.get("steps"), answer.get("next_cursor", "")
        if not isinstance(steps, list):
            return "its steps are no list"
        for step in steps:
            index = step.get("step_index") if isinstance(step, dict) else None
            if not (_is_integer(index) and 0 <= index <= INDEX_MAX):
                return "one of its steps has no step_index"
        if following is None:
            return None
        if not (isinstance(following, str) and following):
            return "it has no next_cursor"
        # Pages would be read for ever.
        return "its next_cursor leads nowhere" if following == cursor or not steps else None

    return check


def read(response: httpx.Response, check: Check) -> dict[str, Any]:
    """The answer of a success; refuses one that is not what the server says."""
    if check is nothing and response.status_code != NO_CONTENT:
        raise BadAnswer("it should say nothing", response)
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


def _form(answer: dict[str, Any], name: str, form: re.Pattern[str]) -> str | None:
    why = _text(answer, name)
    return why if why is not None or form.fullmatch(answer[name]) else f"its {name} is none"


def _same(answer: dict[str, Any], name: str, value: str | int) -> str | None:
    said = answer.get(name)
    return None if type(said) is type(value) and said == value else f"its {name} is {said!r:.40}"


def _is_integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _receipt(answer: dict[str, Any]) -> str | None:
    receipt = answer.get("receipt")
    is_one = isinstance(receipt, dict) and isinstance(receipt.get("record_id"), str)
    return None if is_one else "it has no receipt"


def _outcome(answer: dict[str, Any], *, executed: bool) -> str | None:
    if "output" not in answer:
        return "it has no output"
    for name in ("executed", "skipped", "checked", "from_cache"):
        if not isinstance(answer.get(name), bool):
            return f"its {name} is neither true nor false"
    if answer["executed"] is not executed or answer["from_cache"] is executed:
        return f"its executed is {answer['executed']}, its from_cache {answer['from_cache']}"
    return _form(answer, "output_hash", OUTPUT_HASH)
