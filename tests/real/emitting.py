"""What every emitter shares: exporters chosen as OpenTelemetry says, spans with
given times, and one line of JSON on stdout that names what was sent.

The exporters take endpoint, compression and headers from the OTEL_EXPORTER_OTLP_*
variables, as those of a stock agent do. An emitter exits with 1 when an exporter
reports anything but success.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode

import agent_run
from agent_run import BASE_NS, MS, Chat, Run, Tool

FLUSH_MS = 60_000


def protocol() -> str:
    return os.environ["OTEL_EXPORTER_OTLP_PROTOCOL"]


def span_exporter() -> SpanExporter:
    match protocol():
        case "http/protobuf":
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        case "http/json":
            from opentelemetry.exporter.otlp.json.http.trace_exporter import OTLPSpanExporter
        case "grpc":
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        case other:
            raise SystemExit(f"no exporter for {other}")
    return OTLPSpanExporter()


@dataclass
class Sent(SpanExporter):
    """Passes spans on, and keeps which were sent and whether any export failed."""

    inner: SpanExporter
    spans: list[dict[str, Any]] = field(default_factory=list)
    failed: bool = False

    def export(self, spans: Any) -> SpanExportResult:
        result = self.inner.export(spans)
        self.failed |= result is not SpanExportResult.SUCCESS
        self.spans.extend(described(span) for span in spans)
        return result

    def shutdown(self) -> None:
        self.inner.shutdown()

    def force_flush(self, timeout_millis: int = FLUSH_MS) -> bool:
        return self.inner.force_flush(timeout_millis)


def described(span: ReadableSpan) -> dict[str, Any]:
    return {
        "trace_id": f"{span.context.trace_id:032x}",
        "span_id": f"{span.context.span_id:016x}",
        "parent_span_id": f"{span.parent.span_id:016x}" if span.parent else None,
        "name": span.name,
        "start_ns": span.start_time,
        "end_ns": span.end_time,
    }


@dataclass
class Pipeline:
    """The official SDK with a batch processor, as an application sets it up."""

    service: str
    resource: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sent = Sent(span_exporter())
        self.sdk_resource = Resource.create({"service.name": self.service, **self.resource})
        self.provider = TracerProvider(resource=self.sdk_resource)
        self.provider.add_span_processor(BatchSpanProcessor(self.sent))

    def finish(self, **more: Any) -> None:
        """Flushes, says on stdout what was sent, exits by the exporters' word."""
        flushed = self.provider.force_flush(FLUSH_MS)
        self.provider.shutdown()
        print(json.dumps({"spans": self.sent.spans, **more}))
        sys.stdout.flush()
        if not flushed or self.sent.failed:
            raise SystemExit("the exporter reported a failure")


@dataclass
class Told:
    """How a dialect tells one step: name, kind, attributes, span events."""

    name: str
    attributes: dict[str, Any]
    kind: SpanKind = SpanKind.INTERNAL
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


@dataclass(frozen=True)
class Dialect:
    scope: str
    agent: Callable[[Run], Told]
    chat: Callable[[Chat], Told]
    tool: Callable[[Tool], Told]


def at(offset_ms: int) -> int:
    return BASE_NS + offset_ms * MS


def emit(dialect: Dialect) -> None:
    """Sends the run in `dialect`, each variant as a trace of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("variants", nargs="*", default=agent_run.VARIANTS)
    variants = parser.parse_args().variants
    pipeline = Pipeline("weather-service")
    tracer = pipeline.provider.get_tracer(dialect.scope, "1.0.0")
    trace_ids = {variant: emit_run(tracer, dialect, agent_run.run(variant)) for variant in variants}
    pipeline.finish(trace_ids=trace_ids)


def emit_run(tracer: trace.Tracer, dialect: Dialect, run: Run) -> str:
    root = start(tracer, dialect.agent(run), 0, None)
    for step in (run.first, run.tool, run.second):
        told = dialect.tool(step) if isinstance(step, Tool) else dialect.chat(step)
        span = start(tracer, told, step.start_ms, root)
        for name, attributes in told.events:
            span.add_event(name, attributes, timestamp=at(step.end_ms))
        if isinstance(step, Tool) and step.failed:
            span.record_exception(TimeoutError(agent_run.ERROR_TEXT), timestamp=at(step.end_ms))
            span.set_status(Status(StatusCode.ERROR, agent_run.ERROR_TEXT))
        span.end(at(step.end_ms))
    root.set_status(Status(StatusCode.OK))
    root.end(at(run.end_ms))
    return f"{root.get_span_context().trace_id:032x}"


def start(tracer: trace.Tracer, told: Told, offset_ms: int, parent: trace.Span | None) -> trace.Span:
    context = trace.set_span_in_context(parent) if parent else None
    return tracer.start_span(told.name, context=context, kind=told.kind,
                             attributes=told.attributes, start_time=at(offset_ms))
