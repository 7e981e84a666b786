"""The official GenAI instrumentation of the openai client, current conventions."""

import os

os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "span_only"

from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor

import live

if __name__ == "__main__":
    live.main(lambda provider: OpenAIInstrumentor().instrument(tracer_provider=provider), live.OTEL)
