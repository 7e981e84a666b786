"""OpenLLMetry's instrumentation of the openai client."""

import json

from opentelemetry.instrumentation.openai import OpenAIInstrumentor

import live

WORDS = live.Vocabulary(
    agent=lambda name: {"traceloop.span.kind": "agent", "traceloop.entity.name": name},
    tool=lambda name, arguments, result: {
        "traceloop.span.kind": "tool", "traceloop.entity.name": name,
        "traceloop.entity.input": json.dumps(arguments), "traceloop.entity.output": json.dumps(result)},
)

if __name__ == "__main__":
    live.main(lambda provider: OpenAIInstrumentor().instrument(tracer_provider=provider), WORDS)
