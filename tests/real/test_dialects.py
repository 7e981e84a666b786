"""One agent run told in five dialects is one normalised run.

The contract, for a trace of spans:

1.  A span is a step, in the order of start time, then span id; step_index counts from 0.
2.  skill_name is the tool's name, else the requested model, else the agent's name, else
    the span's name. The served model is never a skill.
3.  A model call has params = {"messages": [...]} and outcome_data = {"messages": [...]},
    nothing else in either: no parameters, no ids, no times, no usage, no finish reasons.
4.  A message is {"role", "parts"}. A part is one of
        {"type": "text", "content": text}
        {"type": "tool_call", "name": name, "arguments": object}
        {"type": "tool_call_response", "response": value}
    without ids and without members that are null. System instructions are a first
    message with role `system`. A tool's message has role `tool`.
5.  A tool call has params = the arguments object and outcome_data = the result value.
    Where arguments, a result or a response arrive as text, the text is parsed if it is
    JSON and kept as a string if not. Text content is never parsed. No result is null.
6.  An agent span without content of its own has params = {} and outcome_data = null.
7.  status is `failure` if and only if the span's status is ERROR, else `success`;
    outcome_category is SUCCESS or FAILURE accordingly. outcome_code is error.type, else
    the exception.type of the span's exception event, else null.
8.  The run: provider (normalised name) and requested model of its first model call;
    tokens summed over model calls only, cached tokens inside the input tokens; SUCCEEDED
    if the root span did not end in ERROR, whatever its children did; the conversation is
    the correlation_id.
9.  plan is [], seed is 42, and root_hash follows from the steps as for any other run.

The expectations below are written by hand; they share nothing with agent_run.py.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import rfc8785

from api import Api
from conftest import Emit

DIALECTS = ("emit_otel_current.py", "emit_otel_old.py", "emit_openinference.py",
            "emit_openllmetry_old.py", "emit_otel_next.py")
VARIANTS = ("ok", "failing")
COMPARED = ("skill_name", "params", "status", "outcome_category", "outcome_code", "outcome_data")
SEED = 42


def text(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": content}]}


def returned(response: Any) -> dict[str, Any]:
    return {"role": "tool", "parts": [{"type": "tool_call_response", "response": response}]}


def step(skill: str, params: Any, outcome: Any, error: str | None = None) -> dict[str, Any]:
    return {
        "skill_name": skill,
        "params": params,
        "status": "failure" if error else "success",
        "outcome_category": "FAILURE" if error else "SUCCESS",
        "outcome_code": error,
        "outcome_data": outcome,
    }


ARGUMENTS = {"city": "Lisbon", "days": 1, "unit": "celsius"}
RESULT = {"temperature": 21.5, "sky": "clear"}
ASKED = [text("system", "You answer questions about the weather."), text("user", "How warm is it in Lisbon?")]
CALL = {"role": "assistant", "parts": [{"type": "tool_call", "name": "get_weather", "arguments": ARGUMENTS}]}

AGENT_STEP = step("weather-agent", {}, None)
FIRST_CHAT = step("gpt-4o-mini", {"messages": ASKED}, {"messages": [CALL]})

EXPECTED: dict[str, list[dict[str, Any]]] = {
    "ok": [
        AGENT_STEP,
        FIRST_CHAT,
        step("get_weather", ARGUMENTS, RESULT),
        step("gpt-4o-mini", {"messages": [*ASKED, CALL, returned(RESULT)]},
             {"messages": [text("assistant", "It is 21.5 °C in Lisbon, under a clear sky.")]}),
    ],
    "failing": [
        AGENT_STEP,
        FIRST_CHAT,
        step("get_weather", ARGUMENTS, None, "TimeoutError"),
        step("gpt-4o-mini", {"messages": [*ASKED, CALL, returned("the weather service did not answer")]},
             {"messages": [text("assistant", "I could not reach the weather service.")]}),
    ],
}
DURATIONS_MS = [4_000, 1_000, 500, 1_000]


def jcs_hash(value: Any) -> str:
    return hashlib.sha256(rfc8785.dumps(value)).hexdigest()


def expected_root_hash(steps: list[dict[str, Any]]) -> str:
    hashes = [jcs_hash({"step_index": index, **told}) for index, told in enumerate(steps)]
    return jcs_hash({"plan_hash": jcs_hash([]), "seed": SEED, "steps": hashes})


@pytest.fixture(scope="module")
def sent(emit: Emit) -> dict[str, dict[str, Any]]:
    return {script: emit(script, *VARIANTS) for script in DIALECTS}


@pytest.fixture(params=DIALECTS)
def told(request: pytest.FixtureRequest, sent: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What one dialect's emitter sent."""
    return sent[request.param]


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def run_id(told: dict[str, Any], variant: str) -> str:
    """A trace that names no run is the run of its own id."""
    return told["trace_ids"][variant]


def test_the_steps_are_the_expected_ones(api: Api, run_id: str, variant: str) -> None:
    steps = api.run_trace(run_id)["steps"]
    assert [step["step_index"] for step in steps] == [0, 1, 2, 3]
    for got, expected in zip(steps, EXPECTED[variant], strict=True):
        assert {name: got[name] for name in COMPARED} == expected


@pytest.mark.parametrize("protocol", ["http/json", "grpc"])
@pytest.mark.parametrize("script", DIALECTS)
def test_the_steps_do_not_depend_on_the_protocol(api: Api, emit: Emit, script: str, protocol: str) -> None:
    run_id = emit(script, "ok", protocol=protocol)["trace_ids"]["ok"]
    steps = api.run_trace(run_id)["steps"]
    assert [{name: got[name] for name in COMPARED} for got in steps] == EXPECTED["ok"]


def test_the_level_of_a_step_follows_from_its_status(api: Api, run_id: str, variant: str) -> None:
    levels = [step["level"] for step in api.run_trace(run_id)["steps"]]
    assert levels == ["INFO", "INFO", "ERROR" if variant == "failing" else "INFO", "INFO"]


def test_the_trace_read_has_every_step_with_its_duration(api: Api, run_id: str) -> None:
    trace = api.trace_read(run_id)
    assert trace["total_steps"] == 4
    assert [step["duration_ms"] for step in trace["steps"]] == DURATIONS_MS


def test_the_envelope_is_the_same_and_counts_every_token_once(api: Api, run_id: str) -> None:
    envelope = api.envelope(run_id)
    assert {name: envelope[name] for name in ("provider", "model", "input_tokens", "output_tokens",
                                              "execution_status")} == {
        "provider": "openai", "model": "gpt-4o-mini", "input_tokens": 202, "output_tokens": 41,
        "execution_status": "SUCCEEDED"}


def test_the_conversation_is_the_correlation_id(api: Api, run_id: str) -> None:
    assert api.envelope(run_id)["metadata"]["correlation_id"] == "conversation-7"


def test_provider_evidence_has_cached_tokens_beside_the_total_not_in_it(
    api: Api, told: dict[str, Any], run_id: str
) -> None:
    chats = sorted((s for s in told["spans"] if s["trace_id"] == run_id), key=lambda s: s["start_ns"])[1::2]
    evidence = [api.step_record(run_id, chat["span_id"])["body"]["provider"] for chat in chats]
    names = ("provider_name", "input_tokens", "output_tokens", "cache_read_tokens",
             "cache_creation_tokens", "total_tokens")
    assert [tuple(e[name] for name in names) for e in evidence] == [
        ("openai", 82, 17, 32, 16, 99), ("openai", 120, 24, 64, 0, 144)]


def test_all_dialects_have_one_root_hash_and_it_follows_from_the_steps(
    api: Api, sent: dict[str, dict[str, Any]], variant: str
) -> None:
    hashes = {}
    for script, told in sent.items():
        run_id = told["trace_ids"][variant]
        hashes[script] = api.settled_root_hash(run_id)
    assert hashes == dict.fromkeys(DIALECTS, expected_root_hash(EXPECTED[variant]))
