"""The instrumentations people run, around the client people run.

Four of them: the official GenAI one, its forerunner that stays at conventions 1.30,
OpenInference, OpenLLMetry. The provider is a small server on this machine, so what it
answered is known to the token.
"""

from __future__ import annotations

from typing import Any

import pytest

from api import Api
from conftest import Emit
from provider import Provider

WITH_CONTENT = ("emit_live_otel_genai.py", "emit_live_openinference.py", "emit_live_openllmetry.py")
EMITTERS = (*WITH_CONTENT, "emit_live_otel_v130.py")
"""The forerunner keeps content off its spans, so only its numbers are compared."""

MODEL = "gpt-4o-mini"


def text(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": content}]}


CALL = {"role": "assistant", "parts": [
    {"type": "tool_call", "name": "get_weather", "arguments": {"city": "Lisbon"}}]}
RETURNED = {"role": "tool", "parts": [{"type": "tool_call_response", "response": {"temperature": 21.5}}]}
ASKED = [text("system", "You know the weather."), text("user", "How warm is it in Lisbon?")]


@pytest.fixture(scope="module")
def sent(emit: Emit, provider: Provider) -> dict[str, dict[str, Any]]:
    return {script: emit(script, "--provider", provider.base_url) for script in EMITTERS}


@pytest.mark.parametrize("script", EMITTERS)
def test_the_envelope_has_the_provider_the_model_and_the_tokens_the_provider_stated(
    api: Api, sent: dict[str, dict[str, Any]], script: str
) -> None:
    usages = sent[script]["usages"]
    assert len(usages) == 2
    envelope = api.envelope(sent[script]["trace_id"])
    assert (envelope["provider"], envelope["model"]) == ("openai", MODEL)
    assert envelope["input_tokens"] == sum(u["input"] for u in usages)
    assert envelope["output_tokens"] == sum(u["output"] for u in usages)
    assert envelope["execution_status"] == "SUCCEEDED"


@pytest.mark.parametrize("script", EMITTERS)
def test_the_steps_are_agent_model_tool_model(api: Api, sent: dict[str, dict[str, Any]], script: str) -> None:
    steps = api.run_trace(sent[script]["trace_id"])["steps"]
    assert [step["skill_name"] for step in steps] == ["live-agent", MODEL, "get_weather", MODEL]
    assert [step["status"] for step in steps] == ["success"] * 4
    assert (steps[2]["params"], steps[2]["outcome_data"]) == ({"city": "Lisbon"}, {"temperature": 21.5})


@pytest.mark.parametrize("script", WITH_CONTENT)
def test_what_was_said_reads_the_same_in_every_vocabulary(
    api: Api, sent: dict[str, dict[str, Any]], script: str
) -> None:
    _, first, _, second = api.run_trace(sent[script]["trace_id"])["steps"]
    assert first["params"] == {"messages": ASKED}
    assert first["outcome_data"] == {"messages": [CALL]}
    assert second["params"] == {"messages": [*ASKED, CALL, RETURNED]}
    assert second["outcome_data"] == {"messages": [text("assistant", "It is warm in Lisbon.")]}


def test_runs_told_by_different_instrumentations_have_one_root_hash(
    api: Api, sent: dict[str, dict[str, Any]]
) -> None:
    hashes = {script: api.settled_root_hash(sent[script]["trace_id"]) for script in WITH_CONTENT}
    assert None not in hashes.values()
    assert len(set(hashes.values())) == 1, hashes


@pytest.mark.parametrize("script", EMITTERS)
def test_a_refused_model_call_is_a_failed_step_of_a_failed_run(
    api: Api, emit: Emit, provider: Provider, script: str
) -> None:
    told = emit(script, "--provider", provider.base_url, "--fail")
    assert told["error"] == "InternalServerError"
    assert api.envelope(told["trace_id"])["execution_status"] == "FAILED"
    agent, chat = api.run_trace(told["trace_id"])["steps"]
    assert (agent["status"], chat["status"]) == ("failure", "failure")
    # One of them writes the module in front of the name.
    assert chat["outcome_code"].rpartition(".")[2] == "InternalServerError"
