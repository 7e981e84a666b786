"""Hand-made OTLP requests, where a test must send the same bytes twice."""

from __future__ import annotations

import gzip
import json
import secrets
from typing import Any

import httpx
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from agent_run import BASE_NS, MS
from api import Api

PROTOBUF = "application/x-protobuf"
JSON = "application/json"


def new_trace() -> bytes:
    return secrets.token_bytes(16)


def attribute(key: str, value: str | int) -> KeyValue:
    typed = AnyValue(int_value=value) if isinstance(value, int) else AnyValue(string_value=value)
    return KeyValue(key=key, value=typed)


def span(trace_id: bytes, name: str, number: int, parent: bytes = b"", **attributes: str | int) -> Span:
    """Span `number` of a trace; its id is its number, its time follows from it."""
    return Span(
        trace_id=trace_id, span_id=number.to_bytes(8, "big"), parent_span_id=parent, name=name,
        kind=Span.SPAN_KIND_INTERNAL, start_time_unix_nano=BASE_NS + number * MS,
        end_time_unix_nano=BASE_NS + number * MS + MS // 2,
        attributes=[attribute(key, value) for key, value in attributes.items()],
        status=Status(code=Status.STATUS_CODE_OK))


def request(*spans: Span) -> ExportTraceServiceRequest:
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(
        resource=Resource(attributes=[attribute("service.name", "hand-made")]),
        scope_spans=[ScopeSpans(scope=InstrumentationScope(name="hand", version="1.0.0"), spans=spans)])])


def as_json(message: ExportTraceServiceRequest) -> bytes:
    """OTLP/JSON: protobuf's JSON with ids in hex and enumerations as numbers."""
    tree = json_format.MessageToDict(message, use_integers_for_enums=True)
    for resource_spans, told in zip(message.resource_spans, tree["resourceSpans"], strict=True):
        for scope_spans, inner in zip(resource_spans.scope_spans, told["scopeSpans"], strict=True):
            for sent, span_told in zip(scope_spans.spans, inner["spans"], strict=True):
                span_told["traceId"], span_told["spanId"] = sent.trace_id.hex(), sent.span_id.hex()
                if sent.parent_span_id:
                    span_told["parentSpanId"] = sent.parent_span_id.hex()
    return json.dumps(tree).encode()


def send(api: Api, body: bytes, media_type: str = PROTOBUF, *, gzipped: bool = False) -> httpx.Response:
    headers = {"content-type": media_type}
    if gzipped:
        headers["content-encoding"], body = "gzip", gzip.compress(body)
    return api.client.post("/v1/traces", content=body, headers=headers)


def rejected(answer: httpx.Response) -> tuple[int, str]:
    """How many spans an answer refuses, and why. A full success is (0, "")."""
    assert answer.status_code == 200, f"{answer.status_code} {answer.text[:500]}"
    media_type = answer.headers["content-type"].split(";")[0]
    if media_type == JSON:
        partial: dict[str, Any] = answer.json().get("partialSuccess") or {}
        return int(partial.get("rejectedSpans", 0)), partial.get("errorMessage", "")
    assert media_type == PROTOBUF, media_type
    told = ExportTraceServiceResponse.FromString(answer.content).partial_success
    return told.rejected_spans, told.error_message
