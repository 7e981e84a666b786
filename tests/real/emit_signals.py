"""Sends spans, logs and metrics of one run with one exporter family.

Of the five children two start in the same nanosecond, so that only the span id
orders them. The run names itself by `deponent.run.id`, which logs and metrics
need: a metric carries no trace context.
"""

from __future__ import annotations

import logging
import sys
import uuid
from typing import Any

from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.trace import Status, StatusCode, set_span_in_context

from agent_run import MODEL, MS, PROVIDER
from emitting import FLUSH_MS, Pipeline, at, protocol

CHILD_STARTS_MS = (300, 100, 200, 100, 400)
INPUT_TOKENS = 10
OUTPUT_TOKENS = 3


def log_exporter() -> Any:
    match protocol():
        case "http/protobuf":
            from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        case "http/json":
            from opentelemetry.exporter.otlp.json.http._log_exporter import OTLPLogExporter
        case "grpc":
            from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    return OTLPLogExporter()


def metric_exporter() -> Any:
    match protocol():
        case "http/protobuf":
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        case "http/json":
            from opentelemetry.exporter.otlp.json.http.metric_exporter import OTLPMetricExporter
        case "grpc":
            from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    return OTLPMetricExporter()


def watched(exporter: Any, results: list[str]) -> Any:
    """Keeps the name of every export's result."""
    export = exporter.export

    def exporting(*args: Any, **kwargs: Any) -> Any:
        result = export(*args, **kwargs)
        results.append(result.name)
        return result

    exporter.export = exporting
    return exporter


def main() -> None:
    logging.basicConfig(stream=sys.stderr)
    # Hex without hyphens: groups of digits may be the number of a card, and are redacted.
    run_id = f"run-{uuid.uuid4().hex}"
    pipeline = Pipeline("signal-service", {"deponent.run.id": run_id})
    tracer = pipeline.provider.get_tracer("signals", "1.0.0")
    root = tracer.start_span("invoke_agent signals", start_time=at(0), attributes={
        "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "signals"})
    context = set_span_in_context(root)
    children = [tracer.start_span(f"chat {MODEL}", context=context, start_time=at(start_ms), attributes={
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": MODEL, "gen_ai.usage.input_tokens": INPUT_TOKENS,
        "gen_ai.usage.output_tokens": OUTPUT_TOKENS}) for start_ms in CHILD_STARTS_MS]
    # Sent in the order of their ends: the greater span id first, so that the order of
    # arrival is never the order of the steps.
    for child in sorted(children, key=lambda span: span.get_span_context().span_id, reverse=True):
        child.end(child.start_time + 50 * MS)
    root.set_status(Status(StatusCode.OK))
    root.end(at(1_000))

    results: dict[str, list[str]] = {"logs": [], "metrics": []}
    marker = f"marker-{uuid.uuid4().hex}"
    logs = LoggerProvider(resource=pipeline.sdk_resource)
    logs.add_log_record_processor(
        BatchLogRecordProcessor(watched(log_exporter(), results["logs"])))
    logger = logs.get_logger("signals", "1.0.0")
    logger.emit(timestamp=at(150), severity_number=SeverityNumber.INFO, severity_text="INFO",
                body=f"plain {marker}", context=context, attributes={"attempt": 1})
    logger.emit(timestamp=at(160), severity_number=SeverityNumber.WARN, severity_text="WARN",
                body={"note": f"structured {marker}", "retry": True}, context=context)

    reader = PeriodicExportingMetricReader(watched(metric_exporter(), results["metrics"]),
                                           export_interval_millis=3_600_000)
    metrics = MeterProvider(metric_readers=[reader], resource=pipeline.sdk_resource,
                            shutdown_on_exit=False)  # it would export everything again
    meter = metrics.get_meter("signals", "1.0.0")
    meter.create_counter("weather.lookups", unit="{lookup}").add(3, {"city": "Lisbon"})
    meter.create_histogram("gen_ai.client.token.usage", unit="{token}").record(
        INPUT_TOKENS, {"gen_ai.token.type": "input", "gen_ai.request.model": MODEL})

    metrics.force_flush(FLUSH_MS)
    logs.force_flush(FLUSH_MS)
    logs.shutdown()
    pipeline.finish(run_id=run_id, marker=marker, results=results)


if __name__ == "__main__":
    main()
