//! What of metrics, logs and system records is read by the run that it belongs to.

use serde_json::{Value, json};

use crate::records::alter;
use crate::schema::Schema;
use crate::server::{TestServer, export, span};
use crate::support::assert_checksum;

const SYSTEM: &str = "/api/v1/logs/system";

/// Seconds of the first span of a run: [`span`].
const BEGAN: u64 = 1_767_323_000;

fn read(server: &TestServer, path: &str, form: &str) -> Value {
    let answer = server.get(&format!("{SYSTEM}/{path}")).ok();
    assert_checksum(&answer);
    Schema::committed().assert(form, &answer);
    answer
}

fn attributes(pairs: &[(&str, &str)]) -> Value {
    let attribute = |(key, value): &(&str, &str)| json!({ "key": key, "value": { "stringValue": value } });
    pairs.iter().map(attribute).collect()
}

/// Spans of a resource of these attributes.
fn spans(server: &TestServer, resource: &[(&str, &str)], spans: &[Value]) {
    let mut request = export(spans);
    request["resourceSpans"][0]["resource"]["attributes"] = attributes(resource);
    assert_eq!(server.post("/v1/traces", &request).ok(), json!({}));
}

/// One metric's points.
fn points(server: &TestServer, resource: &[(&str, &str)], points: &Value) {
    let request = json!({ "resourceMetrics": [{
        "resource": { "attributes": attributes(resource) },
        "scopeMetrics": [{ "scope": { "name": "meter" }, "metrics": [{ "name": "m", "gauge": { "dataPoints": points } }] }],
    }] });
    assert_eq!(server.post("/v1/metrics", &request).ok(), json!({}));
}

fn point(second: u64, value: u32) -> Value {
    json!({ "timeUnixNano": format!("{second}000000000"), "asInt": value.to_string() })
}

/// A log record with this in it.
fn log(server: &TestServer, resource: &[(&str, &str)], text: &str, more: &Value) {
    let mut record =
        json!({ "timeUnixNano": format!("{}000000000", BEGAN + 1), "body": { "stringValue": text } });
    for (key, value) in more.as_object().unwrap() {
        record[key] = value.clone();
    }
    let request = json!({ "resourceLogs": [{
        "resource": { "attributes": attributes(resource) }, "scopeLogs": [{ "logRecords": [record] }],
    }] });
    assert_eq!(server.post("/v1/logs", &request).ok(), json!({}));
}

/// Value and bond of each point.
fn bonds(telemetry: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let points = telemetry["points"].as_array().unwrap();
    let mut bonds: Vec<_> = points
        .iter()
        .map(|point| (text(&point["value"]), text(&point["bound_by"])))
        .collect();
    bonds.sort();
    bonds
}

fn summaries(events: &Value) -> Vec<&str> {
    let events = events["events"].as_array().unwrap();
    let mut summaries: Vec<&str> = events
        .iter()
        .map(|event| event["summary"].as_str().unwrap())
        .collect();
    summaries.sort_unstable();
    summaries
}

#[test]
fn metrics_are_bound_by_a_points_run_by_an_exemplars_trace_and_by_instance_and_time() {
    let server = TestServer::new();
    let service = [("service.name", "agent"), ("service.instance.id", "agent-1")];
    spans(&server, &service, &[span(3, 1)]);
    let run = "03".repeat(16);
    let path = format!("{run}/telemetry");
    let stub = read(&server, &path, "TelemetryStubResult");
    assert_eq!(stub["status"], "telemetry_not_collected");

    // A stock exporter knows the instance, and sends each minute.
    points(
        &server,
        &service,
        &json!([point(BEGAN + 2, 1), point(BEGAN - 60, 2)]),
    );
    points(&server, &service, &json!([point(BEGAN + 3_600, 3)]));
    points(
        &server,
        &[("service.instance.id", "agent-2")],
        &json!([point(BEGAN + 2, 4)]),
    );
    let mut of_run = point(BEGAN + 9_000, 5);
    of_run["attributes"] = attributes(&[("deponent.run.id", &run)]);
    let mut of_other = point(BEGAN + 2, 6);
    of_other["attributes"] = attributes(&[("deponent.run.id", "other")]);
    // Measured by the run's instance, while it ran, within one of its traces: but for another.
    of_other["exemplars"] =
        json!([{ "traceId": "03".repeat(16), "spanId": "0000000000000001", "asInt": "1" }]);
    let mut seen = point(BEGAN + 9_000, 7);
    seen["exemplars"] = json!([{ "traceId": "03".repeat(16), "spanId": "0000000000000001", "asInt": "1" }]);
    points(
        &server,
        &service,
        &json!([of_run, of_other, seen, point(BEGAN + 9_000, 8)]),
    );
    let collected = read(&server, &path, "TelemetryResult");
    let of = |value: &str, by: &str| (value.to_owned(), by.to_owned());
    assert_eq!(
        bonds(&collected),
        [of("1", "instance"), of("5", "run"), of("7", "trace")],
        "not what was measured before or long after, by another instance, or for another run"
    );
    assert_eq!(
        (&collected["total"], &collected["complete"]),
        (&json!(3), &json!(true))
    );
}

#[test]
fn a_point_of_the_run_is_found_beside_newer_ones_of_the_same_export() {
    let server = TestServer::new();
    let service = [("service.instance.id", "agent-1")];
    spans(&server, &service, &[span(3, 1)]);
    points(
        &server,
        &service,
        &json!([
            point(BEGAN + 1, 1),
            point(BEGAN + 3_600, 2),
            point(BEGAN - 3_600, 3)
        ]),
    );
    let path = format!("{}/telemetry", "03".repeat(16));
    let collected = read(&server, &path, "TelemetryResult");
    assert_eq!(bonds(&collected), [("1".to_owned(), "instance".to_owned())]);
}

#[test]
fn metrics_that_name_a_run_are_not_shown_for_another_of_their_instance() {
    let server = TestServer::new();
    let service = [("service.instance.id", "agent-1")];
    spans(&server, &service, &[span(3, 1)]);
    spans(&server, &service, &[span(4, 1)]);
    let resource = [
        ("service.instance.id", "agent-1"),
        ("deponent.run.id", "04040404040404040404040404040404"),
    ];
    points(&server, &resource, &json!([point(BEGAN + 1, 1)]));
    let of = |trace: &str| {
        server
            .get(&format!("{SYSTEM}/{}/telemetry", trace.repeat(16)))
            .ok()
    };
    assert_eq!(of("03")["status"], "telemetry_not_collected");
    assert_eq!(bonds(&of("04")), [("1".to_owned(), "run".to_owned())]);
}

#[test]
fn an_environment_that_was_altered_is_named_and_the_rest_is_told() {
    let server = TestServer::new();
    let run = "03".repeat(16);
    let on = |host: &'static str| [("host.name", host), ("service.instance.id", host)];
    spans(&server, &on("h1"), &[span(3, 1)]);
    spans(&server, &on("h2"), &[span(3, 2)]);
    for host in ["h1", "h2"] {
        log(&server, &[("host.name", host)], host, &json!({}));
        points(&server, &on(host), &json!([point(BEGAN + 2, 1)]));
    }
    log(&server, &[], "named", &json!({ "traceId": run }));
    let path = |of: &str| format!("{SYSTEM}/{run}/{of}");
    let events = read(&server, &format!("{run}/events"), "SystemEventsResult");
    assert_eq!(summaries(&events), ["h1", "h2", "named"]);
    let telemetry = read(&server, &format!("{run}/telemetry"), "TelemetryResult");
    assert_eq!(telemetry["points"].as_array().unwrap().len(), 2);

    let found = server
        .get("/api/v1/records?kind=evidence.environment&limit=10")
        .ok();
    let of_h1 = found["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|item| item["body"]["resource"]["host.name"] == "h1")
        .unwrap();
    let index = of_h1["receipt"]["leaf_index"].as_u64().unwrap();
    let server = alter(server, index, "\"host.name\":\"h1\"", "\"host.name\":\"hx\"");
    let named = json!([{ "epoch": 0, "leaf_index": index, "record_id": of_h1["receipt"]["record_id"] }]);
    let events = server.get(&path("events")).ok();
    assert_eq!(
        summaries(&events),
        ["h2", "named"],
        "nobody knows what the other host was"
    );
    assert_eq!(
        (&events["complete"], &events["damaged"]),
        (&json!(false), &named),
        "{events}"
    );
    let telemetry = server.get(&path("telemetry")).ok();
    assert_eq!(telemetry["points"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&telemetry["complete"], &telemetry["damaged"]),
        (&json!(false), &named),
        "{telemetry}"
    );
}

#[test]
fn measurements_that_were_altered_are_named_and_the_rest_is_told() {
    let server = TestServer::new();
    let on = [("host.name", "h1"), ("service.instance.id", "agent-1")];
    spans(&server, &on, &[span(3, 1)]);
    points(&server, &on, &json!([point(BEGAN + 2, 41)]));
    points(&server, &on, &json!([point(BEGAN + 3, 42)]));
    let run = "03".repeat(16);
    let path = format!("{run}/telemetry");
    let whole = read(&server, &path, "TelemetryResult");
    assert_eq!(bonds(&whole).len(), 2);
    assert!(whole.get("damaged").is_none(), "{whole}");

    let first = &whole["points"][0];
    let index = first["leaf_index"].as_u64().unwrap();
    let server = alter(server, index, "\"value\":41", "\"value\":14");
    let telemetry = server.get(&format!("{SYSTEM}/{path}")).ok();
    assert_eq!(bonds(&telemetry), [("42".to_owned(), "instance".to_owned())]);
    let named = &telemetry["damaged"];
    assert_eq!(named.as_array().map(Vec::len), Some(1), "{telemetry}");
    assert_eq!(
        (&named[0]["epoch"], &named[0]["leaf_index"]),
        (&json!(0), &json!(index))
    );
    assert_eq!(
        telemetry["gone"],
        json!({ "archived": 0, "erased": 0, "missing": 1 })
    );
    assert_eq!(telemetry["complete"], true, "what bounds the run is whole");
}

#[test]
fn logs_of_every_trace_of_a_run_are_among_its_events() {
    let server = TestServer::new();
    let one_run = [("deponent.run.id", "r")];
    spans(&server, &one_run, &[span(3, 1), span(4, 1)]);
    spans(&server, &[], &[span(5, 1)]);
    for (trace, text) in [("03", "first"), ("04", "second"), ("05", "of another run")] {
        log(&server, &[], text, &json!({ "traceId": trace.repeat(16) }));
    }
    let events = read(&server, "r/events", "SystemEventsResult");
    assert_eq!(summaries(&events), ["first", "second"]);
    assert_eq!(events["complete"], true);
}

#[test]
fn logs_of_a_service_instance_are_events_of_its_runs_while_they_last() {
    let server = TestServer::new();
    let service = [("service.instance.id", "agent-1")];
    spans(&server, &service, &[span(3, 1)]);
    log(&server, &service, "mine", &json!({}));
    log(
        &server,
        &[("service.instance.id", "agent-2")],
        "another's",
        &json!({}),
    );
    let early = format!("{}000000000", BEGAN - 100);
    log(&server, &service, "before", &json!({ "timeUnixNano": early }));
    let events = read(
        &server,
        &format!("{}/events", "03".repeat(16)),
        "SystemEventsResult",
    );
    assert_eq!(summaries(&events), ["mine"]);
}

#[test]
fn hosts_and_instances_of_which_a_marker_is_left_bind_nothing_to_a_run() {
    let server = TestServer::new();
    let of_run = [
        ("host.name", "bob@example.com"),
        ("service.instance.id", "4111111111111111"),
    ];
    spans(&server, &of_run, &[span(3, 1)]);
    for stranger in [
        ("host.name", "eve@example.com"),
        ("service.instance.id", "5500000000000004"),
    ] {
        log(&server, &[stranger], "a stranger's", &json!({}));
        points(&server, &[stranger], &json!([point(BEGAN + 2, 1)]));
    }
    let run = "03".repeat(16);
    let events = read(&server, &format!("{run}/events"), "SystemEventsResult");
    assert!(summaries(&events).is_empty(), "{events}");
    let telemetry = read(&server, &format!("{run}/telemetry"), "TelemetryStubResult");
    assert_eq!(telemetry["status"], "telemetry_not_collected");
}

#[test]
fn events_of_a_run_of_eight_days_are_those_of_all_its_days() {
    let server = TestServer::new();
    let began = BEGAN - 8 * 86_400;
    let host = [("host.name", "h1")];
    let mut long = span(3, 1);
    long["startTimeUnixNano"] = json!(format!("{began}000000000"));
    spans(&server, &host, &[long]);
    for (text, second) in [
        ("first day", began + 60),
        ("last day", BEGAN - 60),
        ("before", began - 60),
    ] {
        log(
            &server,
            &host,
            text,
            &json!({ "timeUnixNano": format!("{second}000000000") }),
        );
    }
    log(&server, &[("host.name", "h2")], "elsewhere", &json!({}));
    let events = read(
        &server,
        &format!("{}/events", "03".repeat(16)),
        "SystemEventsResult",
    );
    assert_eq!(summaries(&events), ["first day", "last day"]);
}

#[test]
fn an_environment_that_came_late_and_among_many_is_in_the_snapshot() {
    let server = TestServer::new();
    server.run("r");
    let steps: Vec<Value> = (0..2_100_u16)
        .map(|number| {
            let mut span = span(3, number + 1);
            span["attributes"] = attributes(&[("gen_ai.tool.name", "search")]);
            span
        })
        .collect();
    // The trace's own environment would be the first: it belongs to another run.
    for index in 0..3 {
        server.step("r", index, "success");
    }
    spans(&server, &[("deponent.run.id", "of-spans")], &steps);
    for number in 0..40_u16 {
        let resource = [
            ("deponent.run.id", "of-spans"),
            ("host.name", &format!("h{number}")),
        ];
        spans(&server, &resource, &[span(4, number + 1)]);
    }
    log(&server, &[("host.name", "h39")], "on the last host", &json!({}));
    let snapshot = read(&server, "of-spans/snapshot", "SystemSnapshotResult");
    assert_eq!(snapshot["environment_ids"].as_array().unwrap().len(), 41);
    assert_eq!(snapshot["environments_complete"], true);
    let events = read(&server, "of-spans/events", "SystemEventsResult");
    assert_eq!(summaries(&events), ["on the last host"]);

    let none = read(&server, "r/snapshot", "SystemSnapshotResult");
    assert!(none["details"]["note"].is_string());
    let environment =
        json!({ "sdk_mode": "inline", "telemetry_enabled": true, "debug_mode": false, "dry_run": false });
    server.created("/api/v1/runs/r/evidence/environment", &environment);
    let posted = read(&server, "r/snapshot", "SystemSnapshotResult");
    assert_eq!(posted["details"]["sdk_mode"], "inline");
}

#[test]
fn pages_of_events_and_replay_are_read_in_the_instances_ledger_of_the_first() {
    let server = TestServer::new();
    spans(&server, &[], &[span(3, 1)]);
    let run = "03".repeat(16);
    for what in ["events", "replay"] {
        let path = format!("{SYSTEM}/{run}/{what}");
        let size = server.get(&path).ok()["instance_as_of"].as_u64().unwrap();
        assert!(size > 0, "the tenant's own record stands there");
        let at = server.get(&format!("{path}?instance_as_of=0")).ok();
        assert_eq!(at["instance_as_of"], 0);
        let beyond = server.get(&format!("{path}?instance_as_of={}", size + 1));
        assert_eq!(beyond.problem(400), "bad_parameter");
    }
    let path = format!("/api/v1/logs/llm-runs/{run}/replay?instance_as_of=0");
    assert_eq!(server.get(&path).ok()["instance_as_of"], 0);
}
