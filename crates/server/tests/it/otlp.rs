use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Method, Request};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use serde_json::{Value, json};
use server::otlp::limits::PART_ITEMS_MAX;
use tower::ServiceExt;

use crate::server::{TestServer, export, span};

/// A request with one span, and another one whose trace id is none when `bad`.
pub(crate) fn request(bad: bool) -> ExportTraceServiceRequest {
    let span = |trace_id: Vec<u8>, span: u8| Span {
        trace_id,
        span_id: vec![span; 8],
        parent_span_id: vec![9; 8],
        name: "step".into(),
        start_time_unix_nano: 1_767_323_000_000_000_000,
        end_time_unix_nano: 1_767_323_001_000_000_000,
        ..Default::default()
    };
    let mut spans = vec![span(vec![7; 16], 1)];
    if bad {
        spans.push(span(vec![7; 3], 2));
    }
    let scope_spans = vec![ScopeSpans {
        spans,
        ..Default::default()
    }];
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            scope_spans,
            ..Default::default()
        }],
    }
}

fn protobuf(server: &TestServer, path: &str, body: Vec<u8>) -> crate::server::Answer {
    server.request(
        Method::POST,
        path,
        &[("content-type", "application/x-protobuf")],
        body,
    )
}

#[test]
fn what_is_acknowledged_is_in_the_ledger() {
    let server = TestServer::new();
    let answer = protobuf(&server, "/v1/traces", request(false).encode_to_vec());
    assert_eq!(
        (answer.status.as_u16(), answer.header("content-type")),
        (200, "application/x-protobuf")
    );
    assert_eq!(
        ExportTraceServiceResponse::decode(answer.body)
            .unwrap()
            .partial_success,
        None
    );
    let run = "07".repeat(16);
    let records = server
        .get(&format!("/api/v1/records?run_id={run}&kind=trace.step"))
        .ok();
    assert_eq!(records["items"].as_array().unwrap().len(), 1);
}

#[test]
fn the_same_again_is_a_success_and_adds_nothing() {
    let server = TestServer::new();
    let size = || server.get("/api/v1/ledger/head").ok()["tree_size"].clone();
    server.spans(&[span(1, 1), span(1, 2)]);
    let before = size();
    server.spans(&[span(1, 1), span(1, 2)]);
    assert_eq!(size(), before);
}

#[test]
fn one_bad_span_does_not_touch_its_neighbours() {
    let server = TestServer::new();
    let answer = protobuf(&server, "/v1/traces", request(true).encode_to_vec());
    assert_eq!(answer.status, 200);
    let partial = ExportTraceServiceResponse::decode(answer.body)
        .unwrap()
        .partial_success
        .unwrap();
    assert_eq!(partial.rejected_spans, 1);
    assert!(
        partial.error_message.contains("span 1"),
        "{}",
        partial.error_message
    );
    let steps = server.get("/api/v1/records?kind=trace.step").ok();
    assert_eq!(steps["items"].as_array().unwrap().len(), 1);
}

#[test]
fn a_request_in_parts_is_taken_whole_in_both_encodings() {
    let server = TestServer::new();
    let count = u16::try_from(PART_ITEMS_MAX).unwrap() + 2;
    let mut large = request(false);
    let spans = &mut large.resource_spans[0].scope_spans[0].spans;
    let one = spans.remove(0);
    spans.extend((1..=count).map(|number| Span {
        span_id: u64::from(number).to_be_bytes().to_vec(),
        ..one.clone()
    }));
    spans[PART_ITEMS_MAX].trace_id.clear();
    let answer = protobuf(&server, "/v1/traces", large.encode_to_vec());
    let partial = ExportTraceServiceResponse::decode(answer.body)
        .unwrap()
        .partial_success
        .unwrap();
    assert_eq!(partial.rejected_spans, 1);
    let reason = partial.error_message;
    assert!(reason.contains("span 8192 of resource 0"), "{reason}");

    let spans: Vec<Value> = (1..=count).map(|number| span(1, number)).collect();
    server.spans(&spans);
    for trace in ["07", "01"] {
        for number in [1, count] {
            let found = server
                .get(&format!(
                    "/api/v1/records?trace_id={}&span_id={number:016x}",
                    trace.repeat(16)
                ))
                .ok();
            assert_eq!(found["items"].as_array().unwrap().len(), 1, "{trace} {number}");
        }
    }
    let size = || server.get("/api/v1/ledger/head").ok()["tree_size"].clone();
    let before = size();
    server.spans(&spans);
    assert_eq!(size(), before, "the same again adds nothing");
}

/// More log records than a part has, which name their run by what is no identifier.
fn many_logs(count: usize) -> Value {
    let name = json!({ "key": "deponent.run.id", "value": { "stringValue": "\u{7}" } });
    let log = json!({ "body": { "stringValue": "x" }, "attributes": [name] });
    json!({ "resourceLogs": [{ "scopeLogs": [{ "logRecords": vec![log; count] }] }] })
}

#[test]
fn what_holds_for_several_parts_is_said_once() {
    let server = TestServer::new();
    let count = PART_ITEMS_MAX + 2;
    let partial = server.post("/v1/logs", &many_logs(count)).ok()["partialSuccess"].take();
    assert_eq!(partial["rejectedLogRecords"], "0");
    let message = partial["errorMessage"].as_str().unwrap();
    assert_eq!(message.matches("no identifier").count(), 1, "{message}");
    assert!(message.contains(&format!("{count} times")), "{message}");
}

#[test]
fn a_request_in_parts_that_has_begun_is_taken_whole_though_nobody_waits_for_it() {
    let server = TestServer::new();
    let count = PART_ITEMS_MAX + 2;
    let request = Request::post("/v1/logs")
        .header("host", "localhost:4318")
        .header("content-type", "application/json")
        .body(Body::from(many_logs(count).to_string()))
        .unwrap();
    let records = || usize::try_from(server.app.ledger.counts().records).unwrap();
    let (before, deadline) = (records(), Instant::now() + Duration::from_mins(1));
    let asked = server.runtime.spawn(server.router.clone().oneshot(request));
    while records() < before + 1_000 {
        assert!(Instant::now() < deadline, "nothing is written");
        std::thread::sleep(Duration::from_millis(1));
    }
    asked.abort();
    while records() < before + count {
        assert!(Instant::now() < deadline, "{} are written", records() - before);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn other_content_under_a_known_span_is_counted_and_the_first_stays() {
    let server = TestServer::new();
    server.spans(&[span(1, 1)]);
    let mut other = span(1, 1);
    other["name"] = "something else".into();
    let answer = server.post("/v1/traces", &export(&[other, span(1, 2)])).ok();
    assert_eq!(answer["partialSuccess"]["rejectedSpans"], "1");
    let message = answer["partialSuccess"]["errorMessage"].as_str().unwrap();
    assert!(message.contains("other content"), "{message}");
    let record = server
        .get(&format!(
            "/api/v1/records?trace_id={}&span_id={:016x}",
            "01".repeat(16),
            1
        ))
        .ok();
    assert_eq!(record["items"].as_array().unwrap().len(), 1);
}

#[test]
fn a_run_id_that_is_no_identifier_is_taken_with_a_warning() {
    let server = TestServer::new();
    let named = |name: &str| {
        let name = json!({ "key": "deponent.run.id", "value": { "stringValue": name } });
        json!({ "attributes": [name] })
    };
    let post = |path: &str, name: &str, mut export: Value| {
        for resources in export.as_object_mut().unwrap().values_mut() {
            resources[0]["resource"] = named(name);
        }
        server.post(path, &export).ok()
    };
    let log = json!({ "resourceLogs": [{ "scopeLogs": [{ "logRecords": [{ "body": { "stringValue": "x" } }] }] }] });
    let gauge = json!({ "dataPoints": [{ "asInt": "1" }] });
    let metric = json!({ "resourceMetrics": [{ "scopeMetrics": [{ "metrics": [{ "name": "m", "gauge": gauge }] }] }] });
    for (path, items, sent) in [
        ("/v1/traces", "rejectedSpans", export(&[span(1, 1)])),
        ("/v1/logs", "rejectedLogRecords", log),
        ("/v1/metrics", "rejectedDataPoints", metric),
    ] {
        let partial = post(path, &"x".repeat(257), sent.clone())["partialSuccess"].take();
        assert_eq!(partial[items], "0", "{path}");
        let message = partial["errorMessage"].as_str().unwrap();
        assert!(
            message.starts_with("deponent.run.id is no identifier"),
            "{message}"
        );
        assert_eq!(post(path, "r", sent), json!({}), "{path}");
    }
    // A trace that has its run keeps it: nothing is said of what it is named.
    let partial = post("/v1/traces", &"x".repeat(257), export(&[span(1, 2)]))["partialSuccess"].take();
    let message = partial["errorMessage"].as_str().unwrap();
    assert!(message.ends_with("1 times: it names no run"), "{message}");
}

#[test]
fn a_log_record_names_its_run_itself_when_its_resource_names_none() {
    let server = TestServer::new();
    let name = |name: &str| json!([{ "key": "deponent.run.id", "value": { "stringValue": name } }]);
    let long = "x".repeat(257);
    let post = |of_record: &str| {
        let log = json!({ "body": { "stringValue": "x" }, "attributes": name(of_record) });
        let scopes = json!([{ "logRecords": [log] }]);
        let resource = json!({ "attributes": name(&long) });
        let sent = json!({ "resourceLogs": [{ "resource": resource, "scopeLogs": scopes }] });
        server.post("/v1/logs", &sent).ok()
    };
    assert_eq!(post("r"), json!({}));
    let found = server.get("/api/v1/records?kind=system.record").ok();
    assert_eq!(found["items"][0]["header"]["correlation_id"], "r");
    let partial = post(&long)["partialSuccess"].take();
    let message = partial["errorMessage"].as_str().unwrap();
    assert!(message.contains("1 times"), "{message}");
}

#[test]
fn refusals_are_in_the_encoding_of_the_request() {
    let server = TestServer::new();
    for path in ["/v1/traces", "/v1/logs", "/v1/metrics"] {
        let answer = server.request(
            Method::POST,
            path,
            &[("content-type", "application/json")],
            "{\"resource",
        );
        assert_eq!(
            (answer.status.as_u16(), answer.header("content-type")),
            (400, "application/json")
        );
        assert_eq!(answer.json()["code"], 3);
        let answer = protobuf(&server, path, vec![0xff; 9]);
        assert_eq!(
            (answer.status.as_u16(), answer.header("content-type")),
            (400, "application/x-protobuf")
        );
        // google.rpc.Status: field 1 is the code, 3 is INVALID_ARGUMENT.
        assert_eq!(answer.body[..2], [0x08, 0x03]);
        assert_eq!(server.get(path).problem(405), "method_not_allowed");
    }
}

#[test]
fn other_content_types_are_refused() {
    let server = TestServer::new();
    for headers in [
        &[][..],
        &[("content-type", "text/plain")],
        &[("content-type", "application/grpc")],
    ] {
        let answer = server.request(Method::POST, "/v1/traces", headers, "{}");
        assert_eq!(answer.problem(415), "content_type");
    }
    let with_charset = [("content-type", "application/json; charset=utf-8")];
    assert_eq!(
        server
            .request(Method::POST, "/v1/traces", &with_charset, "{}")
            .text(),
        "{}"
    );
}

#[test]
fn logs_and_metrics_become_records() {
    let server = TestServer::new();
    let log = json!({ "resourceLogs": [{ "scopeLogs": [{ "logRecords": [{
        "timeUnixNano": "1767323000000000000", "severityNumber": 9, "body": { "stringValue": "hello" } }] }] }] });
    assert_eq!(server.post("/v1/logs", &log).ok(), json!({}));
    let point = json!({ "timeUnixNano": "1767323000000000000", "asInt": "3" });
    let metric = json!({ "resourceMetrics": [{ "scopeMetrics": [{ "metrics": [
        { "name": "tokens", "unit": "1", "gauge": { "dataPoints": [point] } }] }] }] });
    assert_eq!(server.post("/v1/metrics", &metric).ok(), json!({}));
    for kind in ["system.record", "system.telemetry"] {
        let found: Value = server.get(&format!("/api/v1/records?kind={kind}")).ok();
        assert_eq!(found["items"].as_array().unwrap().len(), 1, "{kind}");
    }
}

#[test]
fn a_closing_ledger_asks_exporters_to_come_again() {
    let server = TestServer::new();
    server.app.ledger.close();
    let answer = server.post("/v1/traces", &export(&[span(1, 1)]));
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "1"));
    assert_eq!(answer.json()["code"], 14);
}
