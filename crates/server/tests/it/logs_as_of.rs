//! Reads of one run at an earlier tree size say what the run was then, and nothing of later leaves.

use serde_json::{Value, json};

use crate::server::{TestServer, span};
use crate::support::{assert_checksum, ticking_server};

const RUNS: &str = "/api/v1/logs/llm-runs";

fn at(server: &TestServer, path: &str, as_of: u64) -> Value {
    let answer = server.get(&format!("{path}?as_of={as_of}")).ok();
    if path.starts_with(RUNS) {
        assert_checksum(&answer);
    }
    assert_eq!(answer.get("as_of").unwrap_or(&json!(as_of)), &json!(as_of));
    answer
}

#[test]
fn a_run_read_at_an_earlier_size_is_what_its_records_said_then() {
    let server = ticking_server();
    let began = json!({ "run_id": "r", "started_at": "2026-01-01T00:00:00Z" });
    server.created("/api/v1/runs", &began);
    let step = |index: u32, second: &str, status: &str| {
        let body = json!({ "step_index": index, "skill_name": "search", "status": status, "cost_cents": 2,
            "timestamp": format!("2026-01-01T00:{second}Z") });
        server.created("/api/v1/runs/r/steps", &body);
    };
    step(0, "00:10", "success");
    let then = server.tree_size();
    step(1, "05:00", "failure");
    let end = json!({ "status": "failed", "provider": "acme", "model": "m1", "input_tokens": 7,
        "completed_at": "2026-01-01T00:05:01Z", "metadata": { "k": "v" } });
    server.created("/api/v1/runs/r/complete", &end);

    let now = server.get(&format!("{RUNS}/r/envelope")).ok();
    assert_eq!(
        (&now["execution_status"], &now["cost_cents"]),
        (&json!("FAILED"), &json!(4))
    );
    let envelope = at(&server, &format!("{RUNS}/r/envelope"), then);
    assert_eq!(
        [
            &envelope["execution_status"],
            &envelope["provider"],
            &envelope["completed_at"]
        ],
        [&json!("RUNNING"), &json!("unknown"), &Value::Null]
    );
    assert_eq!(
        (&envelope["cost_cents"], &envelope["input_tokens"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(envelope["metadata"]["ledger"]["tree_size"], then);

    let trace = at(&server, "/api/v1/traces/r", then);
    assert_eq!(
        [
            &trace["status"],
            &trace["total_steps"],
            &trace["failure_count"],
            &trace["metadata"],
            &trace["root_hash"]
        ],
        [
            &json!("running"),
            &json!(1),
            &json!(0),
            &Value::Null,
            &Value::Null
        ]
    );
    assert_eq!(trace["totals_as_of"], then);
    assert_eq!(trace["steps"].as_array().unwrap().len(), 1);

    let replay = at(&server, &format!("{RUNS}/r/replay"), then);
    assert_eq!(
        replay["inflection_timestamp"], "2026-01-01T00:00:00.000000Z",
        "it had not ended"
    );
    let shown = server
        .get(&format!("{RUNS}/r/replay?as_of={then}&around=failure"))
        .ok();
    assert_eq!(
        shown["inflection_timestamp"], "2026-01-01T00:00:00.000000Z",
        "nor failed"
    );
    // At the size of now it is what it is now.
    let size = server.tree_size();
    assert_eq!(
        at(&server, &format!("{RUNS}/r/envelope"), size)["execution_status"],
        "FAILED"
    );
}

#[test]
fn steps_of_spans_have_the_indexes_that_they_had_then() {
    let server = ticking_server();
    server.spans(&[span(3, 9)]);
    let then = server.tree_size();
    server.spans(&[span(3, 1)]);
    let run = "03".repeat(16);
    let indexes = |trace: &Value| -> Vec<(String, Value)> {
        let steps = trace["steps"].as_array().unwrap();
        steps
            .iter()
            .map(|step| (step["record_id"].to_string(), step["step_index"].clone()))
            .collect()
    };
    let path = format!("{RUNS}/{run}/trace");
    let before = indexes(&at(&server, &path, then));
    assert_eq!(
        before.iter().map(|(_, index)| index).collect::<Vec<_>>(),
        [&json!(0)]
    );
    let now = indexes(&server.get(&path).ok());
    assert_eq!(
        (now.len(), &now[1].0, &now[1].1),
        (2, &before[0].0, &json!(1)),
        "an earlier span came later"
    );
}

#[test]
fn an_erased_run_read_at_an_earlier_size_says_what_is_left_of_it() {
    let server = ticking_server();
    server.run("r");
    let step = server.step("r", 0, "success");
    let then = server.tree_size();
    server.complete("r");
    let path = format!(
        "/api/v1/records/{}/body",
        step["receipt"]["record_id"].as_str().unwrap()
    );
    let erased = server.request(
        axum::http::Method::DELETE,
        &path,
        &[("content-type", "application/json")],
        axum::body::Body::from(json!({ "reason": "asked to" }).to_string()),
    );
    assert_eq!(erased.status, 200, "{}", erased.text());
    let envelope = at(&server, &format!("{RUNS}/r/envelope"), then);
    assert_eq!(envelope["execution_status"], "RUNNING");
    assert_eq!(at(&server, "/api/v1/traces/r", then)["total_steps"], 1);
}

#[test]
fn what_a_long_run_was_is_refused_and_its_steps_are_not() {
    let server = long_run();
    let run = "03".repeat(16);
    let read = |read: &str| server.get(&format!("{RUNS}/{run}/{read}")).ok();
    let (first, replay) = (read("trace"), read("replay"));
    let whole = server.get(&format!("/api/v1/traces/{run}")).ok();
    let then = first["as_of"].as_u64().unwrap();
    assert_eq!(
        (&first["has_more"], &whole["totals_as_of"]),
        (&json!(true), &json!(then))
    );
    server.spans(&[span(3, 20_000)]);
    for read in ["envelope", "export", "replay"] {
        let refused = server.get(&format!("{RUNS}/{run}/{read}?as_of={then}"));
        assert_eq!(refused.problem(400), "as_of_too_far");
    }
    assert_eq!(
        at(&server, &format!("{RUNS}/{run}/governance"), then)["total_events"],
        0
    );
    let next = |page: &Value| page["next_cursor"].as_str().unwrap().to_owned();
    let follow = |read: &str, page: &Value| {
        server
            .get(&format!("{RUNS}/{run}/{read}?cursor={}", next(page)))
            .ok()
    };
    let second = follow("trace", &first);
    assert_eq!(
        (second["steps"].as_array().unwrap().len(), &second["as_of"]),
        (1, &json!(then))
    );
    let second = follow("replay", &replay);
    assert_eq!(
        (second["events"].as_array().unwrap().len(), &second["as_of"]),
        (1, &json!(then))
    );
    assert_eq!(second["window_start"], replay["window_start"]);
    let second = server
        .get(&format!("/api/v1/traces/{run}?cursor={}", next(&whole)))
        .ok();
    assert_eq!(
        second["totals_as_of"],
        then + 1,
        "its totals are of now, and say so"
    );
}

#[test]
fn what_came_with_a_long_run_is_paged_to_its_end_though_the_run_goes_on() {
    let server = long_run();
    let run = "03".repeat(16);
    let nanos = "1767323000500000000";
    let logs: Vec<Value> = (0..10_001)
        .map(|_| json!({ "timeUnixNano": nanos, "traceId": run, "body": { "stringValue": "said" } }))
        .collect();
    let resource = json!({ "attributes": [{ "key": "deponent.run.id", "value": { "stringValue": run } }] });
    let sent = json!({ "resourceLogs": [{ "resource": resource, "scopeLogs": [{ "logRecords": logs }] }] });
    assert_eq!(server.post("/v1/logs", &sent).ok(), json!({}));
    let points: Vec<Value> = (0..12_000)
        .map(|_| json!({ "timeUnixNano": nanos, "asInt": "1" }))
        .collect();
    let metric = json!({ "name": "m", "gauge": { "dataPoints": points } });
    let sent =
        json!({ "resourceMetrics": [{ "resource": resource, "scopeMetrics": [{ "metrics": [metric] }] }] });
    assert_eq!(server.post("/v1/metrics", &sent).ok(), json!({}));

    let reads = [
        ("events", "events", 10_001),
        ("replay", "events", 10_001),
        ("telemetry", "points", 12_000),
    ];
    let path = |read: &str| format!("/api/v1/logs/system/{run}/{read}");
    let firsts = reads.map(|(read, ..)| server.get(&path(read)).ok());
    // It ends, long after: what its window would be now is another.
    let mut root = span(3, 20_000);
    root["parentSpanId"] = json!("");
    root["endTimeUnixNano"] = json!("1767329000000000000");
    server.spans(&[root]);
    for ((read, list, all), first) in reads.into_iter().zip(firsts) {
        let then = first["as_of"].as_u64().unwrap();
        let refused = server.get(&format!("{}?as_of={then}", path(read)));
        assert_eq!(refused.problem(400), "as_of_too_far");
        assert_ne!(first["complete"], false, "{read}");
        let (mut page, mut shown) = (first, 0);
        loop {
            shown += page[list].as_array().unwrap().len();
            let Some(cursor) = page["next_cursor"].as_str() else {
                break;
            };
            page = server.get(&format!("{}?cursor={cursor}", path(read))).ok();
            assert_eq!(page["as_of"], then);
            // Which traces it had then cannot be told any more.
            assert_ne!(page["complete"], true, "{read}");
        }
        assert_eq!(shown, all, "{read}");
    }
}

#[test]
fn a_trace_that_joins_a_run_between_two_pages_binds_nothing_to_the_second() {
    let server = TestServer::new();
    let run = "03".repeat(16);
    let text = |value: &str| json!({ "stringValue": value });
    let of_run = json!({ "attributes": [{ "key": "deponent.run.id", "value": text(&run) }] });
    server.spans(&[span(3, 1)]);
    let measured = |resource: &Value, trace: Option<u8>, count: u32| {
        let points: Vec<Value> = (0..count)
            .map(|_| {
                let mut point = json!({ "timeUnixNano": "1767323000500000000", "asInt": "1" });
                if let Some(trace) = trace {
                    point["exemplars"] = json!([{ "traceId": format!("{trace:02x}").repeat(16),
                        "spanId": "0000000000000001", "asInt": "1" }]);
                }
                point
            })
            .collect();
        let metric = json!({ "name": "m", "gauge": { "dataPoints": points } });
        let sent = json!({ "resourceMetrics": [{ "resource": resource, "scopeMetrics": [{ "metrics": [metric] }] }] });
        assert_eq!(server.post("/v1/metrics", &sent).ok(), json!({}));
    };
    measured(&of_run, None, 10_000);
    measured(&of_run, None, 1);
    measured(&json!({}), Some(4), 1);
    let path = format!("/api/v1/logs/system/{run}/telemetry");
    let first = server.get(&path).ok();
    assert_eq!(
        (&first["total"], &first["has_more"], &first["complete"]),
        (&json!(10_000), &json!(true), &json!(true))
    );
    // The trace that the last of them names becomes the run's.
    let mut joined = crate::server::export(&[span(4, 1)]);
    joined["resourceSpans"][0]["resource"] = of_run.clone();
    assert_eq!(server.post("/v1/traces", &joined).ok(), json!({}));
    assert_eq!(
        server.get("/api/v1/traces/04040404040404040404040404040404").ok()["run_id"],
        json!(run)
    );
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = server.get(&format!("{path}?cursor={cursor}")).ok();
    assert_eq!(
        (&second["total"], &second["has_more"], &second["complete"]),
        (&json!(1), &json!(false), &json!(true)),
        "it was not the run's when the first page was read, and that is known"
    );
}

#[test]
fn a_run_that_grows_while_it_is_found_is_read_as_it_is_then() {
    let (server, fault) = TestServer::failing();
    grow_long(&server);
    let run = "03".repeat(16);
    for (read, number) in [("replay", 20_001_u16), ("envelope", 20_002)] {
        let before = server.tree_size();
        let router = server.router.clone();
        // Between the size of the tree and the run's row.
        fault.before("run_find", 1, move || {
            let sent = crate::server::export(&[span(3, number)]);
            let request = axum::http::Request::post("/v1/traces")
                .header("host", "localhost")
                .header("content-type", "application/json")
                .body(axum::body::Body::from(sent.to_string()))
                .unwrap();
            let sent = std::thread::spawn(move || {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                let answer = runtime.block_on(tower::ServiceExt::oneshot(router, request));
                answer.unwrap().status()
            });
            assert_eq!(sent.join().unwrap(), 200);
        });
        let answer = server.get(&format!("{RUNS}/{run}/{read}")).ok();
        let size = answer
            .get("as_of")
            .unwrap_or(&answer["metadata"]["ledger"]["tree_size"]);
        assert!(size.as_u64().unwrap() > before, "{read}: {size}, it was {before}");
    }
}

/// Of 10,001 records and more.
fn long_run() -> TestServer {
    let server = TestServer::new();
    grow_long(&server);
    server
}

fn grow_long(server: &TestServer) {
    let steps: Vec<Value> = (0..10_001_u16).map(|number| span(3, number + 1)).collect();
    for chunk in steps.chunks(2_500) {
        server.spans(chunk);
    }
}

#[test]
fn a_record_of_an_epoch_that_has_ended_stands_in_the_tree_of_that_epoch() {
    let server = TestServer::new();
    server.fill(5);
    server.run("r");
    server.created(
        "/api/v1/runs/r/evidence/environment",
        &json!({ "sdk_mode": "inline", "telemetry_enabled": true, "debug_mode": false, "dry_run": false }),
    );
    let event = json!({ "event_type": "LimitBreached", "entity_type": "LIMIT", "entity_id": "l", "actor_type": "SYSTEM" });
    let entry = server.created("/api/v1/audit-events", &event)["entry_id"].clone();
    server.sign();
    let server = server.without_mark();
    let ledger = &server.app.ledger;
    let left = ledger.tenant("default").unwrap().ledger().row.ledger_no;
    ledger
        .recover("default", "a copy was put back", (server.app.clock)())
        .unwrap();
    let size = ledger.store().head_read(left).unwrap().size.as_u64();
    for path in [
        format!("{RUNS}/r/envelope"),
        "/api/v1/logs/system/r/snapshot".to_owned(),
        format!("/api/v1/logs/audit/entries/{}", entry.as_str().unwrap()),
    ] {
        let place = server.get(&path).ok()["metadata"]["ledger"].clone();
        assert_eq!(place["tree_size"], size, "{path}");
        assert!(place["leaf_index"].as_u64() < Some(size), "{path}: {place}");
    }
}
