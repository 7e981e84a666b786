"""The agent behind the emit_live_*.py scripts: real client, real instrumentation,
a provider on this machine. The spans around the model calls are the script's own,
in its vocabulary, as an agent framework would make them.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import openai
from opentelemetry.trace import Status, StatusCode

from emitting import Pipeline

MODEL = "gpt-4o-mini"
TOOLS = [{"type": "function", "function": {
    "name": "get_weather", "description": "Current weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]
RESULT = {"temperature": 21.5}


@dataclass(frozen=True)
class Vocabulary:
    """How one vocabulary tells an agent span and a tool span."""

    agent: Callable[[str], dict[str, Any]]
    tool: Callable[[str, dict[str, Any], dict[str, Any]], dict[str, Any]]


def converse(client: openai.OpenAI, tracer: Any, words: Vocabulary, system: str) -> list[dict[str, int]]:
    """Both turns of the conversation. Returns the usage the provider stated."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": system},
                                      {"role": "user", "content": "How warm is it in Lisbon?"}]
    first = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
    call = first.choices[0].message.tool_calls[0]
    arguments = json.loads(call.function.arguments)
    name = call.function.name
    with tracer.start_as_current_span(f"execute_tool {name}", attributes=words.tool(name, arguments, RESULT)):
        pass
    messages += [first.choices[0].message.model_dump(exclude_none=True),
                 {"role": "tool", "tool_call_id": call.id, "content": json.dumps(RESULT)}]
    second = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
    return [stated(first), stated(second)]


def stated(answer: Any) -> dict[str, int]:
    usage = answer.usage
    return {"input": usage.prompt_tokens, "output": usage.completion_tokens,
            "cache_read": usage.prompt_tokens_details.cached_tokens}


def main(instrument: Callable[[Any], None], words: Vocabulary) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--provider", required=True)
    parser.add_argument("--fail", action="store_true")
    args = parser.parse_args()
    os.environ["OPENAI_API_KEY"] = "not-a-key"
    pipeline = Pipeline("live-service")
    instrument(pipeline.provider)
    client = openai.OpenAI(base_url=args.provider, max_retries=0)
    tracer = pipeline.provider.get_tracer("live-agent", "1.0.0")
    usages: list[dict[str, int]] = []
    error = None
    with tracer.start_as_current_span("invoke_agent live-agent", attributes=words.agent("live-agent")) as root:
        try:
            usages = converse(client, tracer, words, "FAIL" if args.fail else "You know the weather.")
            root.set_status(Status(StatusCode.OK))
        except openai.APIStatusError as refused:
            error = type(refused).__name__
            root.set_status(Status(StatusCode.ERROR, "the model call failed"))
    pipeline.finish(usages=usages, error=error, trace_id=f"{root.get_span_context().trace_id:032x}")


def otel_agent(name: str) -> dict[str, Any]:
    return {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": name}


def otel_tool(name: str, arguments: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    return {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name,
            "gen_ai.tool.call.arguments": json.dumps(arguments), "gen_ai.tool.call.result": json.dumps(result)}


OTEL = Vocabulary(otel_agent, otel_tool)
