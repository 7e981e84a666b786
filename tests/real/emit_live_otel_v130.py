"""The same instrumentation's forerunner at its default, conventions 1.30: gen_ai.system,
no content on the span. Instrumentations of that age stay there by design."""

import os

os.environ.pop("OTEL_SEMCONV_STABILITY_OPT_IN", None)

from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor

import live

if __name__ == "__main__":
    live.main(lambda provider: OpenAIInstrumentor().instrument(tracer_provider=provider), live.OTEL)
