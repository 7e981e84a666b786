"""A stock OpenTelemetry exporter, pointed at the server and nothing else, loses nothing:
every protocol, with and without compression, for spans, logs and metrics."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api import Api
from conftest import Emit
from emit_signals import CHILD_STARTS_MS, INPUT_TOKENS, OUTPUT_TOKENS

EXPORTERS = [(protocol, gzip) for protocol in ("http/protobuf", "http/json", "grpc") for gzip in (False, True)]

Sent = dict[str, Any]


@pytest.fixture(scope="module", params=EXPORTERS, ids=[f"{p}{'+gzip' if z else ''}" for p, z in EXPORTERS])
def sent(request: pytest.FixtureRequest, emit: Emit) -> Sent:
    protocol, gzip = request.param
    told = emit("emit_signals.py", protocol=protocol, gzip=gzip)
    return told | {"trace_id": told["spans"][0]["trace_id"]}


def in_order(sent: Sent) -> list[Sent]:
    return sorted(sent["spans"], key=lambda span: (span["start_ns"], span["span_id"]))


def test_every_flushed_span_has_exactly_one_record(api: Api, sent: Sent) -> None:
    assert len(sent["spans"]) == len(CHILD_STARTS_MS) + 1
    for span in sent["spans"]:
        record = api.step_record(sent["trace_id"], span["span_id"])
        assert record["header"]["run_id"] == sent["run_id"]
        assert record["header"]["kind"] == "trace.step"


def test_a_trace_has_its_steps_and_one_beginning_and_nothing_of_other_traces(api: Api, sent: Sent) -> None:
    records = api.records(trace_id=sent["trace_id"])
    kinds = [record["header"]["kind"] for record in records]
    assert kinds.count("trace.step") == len(sent["spans"])
    assert kinds.count("run.started") == 1
    assert {record["header"]["run_id"] for record in records if "run_id" in record["header"]} == {sent["run_id"]}


def test_the_records_of_a_run_are_numbered_without_gap(api: Api, sent: Sent) -> None:
    numbered = {r["header"]["run_seq"]: r["receipt"]["leaf_index"] for r in api.records(run_id=sent["run_id"])
                if "run_seq" in r["header"]}
    assert sorted(numbered) == list(range(len(numbered)))
    assert [numbered[seq] for seq in sorted(numbered)] == sorted(numbered.values())


def test_the_trace_reads_in_order_of_start_time_and_span_id(api: Api, sent: Sent) -> None:
    steps = api.trace_read(sent["run_id"])["steps"]
    assert [step["step_index"] for step in steps] == list(range(len(sent["spans"])))
    expected = [api.step_record(sent["trace_id"], span["span_id"])["header"]["id"] for span in in_order(sent)]
    assert [step["record_id"] for step in steps] == expected


def test_the_envelope_counts_the_tokens_of_every_span(api: Api, sent: Sent) -> None:
    envelope = api.envelope(sent["run_id"])
    assert (envelope["provider"], envelope["model"]) == ("openai", "gpt-4o-mini")
    assert envelope["input_tokens"] == INPUT_TOKENS * len(CHILD_STARTS_MS)
    assert envelope["output_tokens"] == OUTPUT_TOKENS * len(CHILD_STARTS_MS)
    assert envelope["execution_status"] == "SUCCEEDED"


def test_logs_and_metrics_are_taken_at_the_first_attempt(sent: Sent) -> None:
    assert sent["results"] == {"logs": ["SUCCESS"], "metrics": ["SUCCESS"]}


def test_every_log_of_a_run_is_a_system_record(api: Api, sent: Sent) -> None:
    bodies = [record["body"] for record in api.records(kind="system.record")]
    told = [body for body in bodies if sent["marker"] in json.dumps(body)]
    assert sorted(body["severity"] for body in told) == ["INFO", "WARN"]
    assert {body["run_id"] for body in told} == {sent["run_id"]}


def test_every_metric_of_a_run_is_telemetry(api: Api, sent: Sent) -> None:
    bodies = [record["body"] for record in api.records(kind="system.telemetry")]
    told = [body for body in bodies if body.get("run_id") == sent["run_id"]]
    values = {point["name"]: point for body in told for point in body["points"]}
    assert values["weather.lookups"]["value"] == 3
    assert values["weather.lookups"]["attributes"]["city"] == "Lisbon"
    assert "gen_ai.client.token.usage" in values
