"""OpenInference's instrumentation of the openai client."""

import json

from openinference.instrumentation.openai import OpenAIInstrumentor

import live

WORDS = live.Vocabulary(
    agent=lambda name: {"openinference.span.kind": "AGENT", "agent.name": name},
    tool=lambda name, arguments, result: {
        "openinference.span.kind": "TOOL", "tool.name": name,
        "input.value": json.dumps(arguments), "input.mime_type": "application/json",
        "output.value": json.dumps(result), "output.mime_type": "application/json"},
)

if __name__ == "__main__":
    live.main(lambda provider: OpenAIInstrumentor().instrument(tracer_provider=provider), WORDS)
