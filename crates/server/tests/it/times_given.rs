//! Times that say more than microseconds: reckoned with as they are cut, kept as they were given.

use serde_json::{Value, json};

use crate::erasure::record_id;
use crate::server::TestServer;
use crate::support::refused;

const FINER: &str = "2026-01-01T00:00:00.123456789Z";
const CUT: &str = "2026-01-01T00:00:00.123456Z";

/// The record of a receipt.
fn record(server: &TestServer, receipt: &Value) -> Value {
    let id = receipt["record_id"].as_str().unwrap();
    server.get(&format!("/api/v1/records/{id}")).ok()
}

/// A request with another time in the place of one.
fn with(body: &Value, member: &str, time: &str) -> Value {
    let mut body = body.clone();
    body[member] = time.into();
    body
}

/// Whatever has a time that a caller gives, with the name of that time. Each makes a record of its own.
fn requests(n: u32) -> Vec<(&'static str, Value, Vec<&'static str>)> {
    let name = format!("x{n}");
    vec![
        (
            "/api/v1/runs",
            json!({ "run_id": name }),
            vec!["started_at", "frozen_timestamp"],
        ),
        (
            "/api/v1/runs/r/steps",
            json!({ "step_index": n, "skill_name": "s", "status": "success" }),
            vec!["timestamp"],
        ),
        (
            "/api/v1/runs/r/evidence/provider",
            json!({ "step_index": n, "provider_name": "p", "model_name": "m" }),
            vec!["requested_at", "responded_at"],
        ),
        (
            "/api/v1/system-records",
            json!({ "component": "c", "event_type": "HEALTH", "severity": "INFO", "summary": "s" }),
            vec!["occurred_at"],
        ),
        (
            "/api/v1/provenance",
            json!({ "input": { "said": name }, "output": 1 }),
            vec!["timestamp"],
        ),
        (
            "/api/v1/signals",
            json!({ "signal_type": "freeze", "scope": "search", "decision": "block" }),
            vec!["at"],
        ),
        (
            "/api/v1/contracts",
            json!({ "contract_id": name, "scope": ["search"] }),
            vec!["activation_window_start", "activation_window_end"],
        ),
    ]
}

#[test]
fn a_time_that_says_more_than_microseconds_is_kept_as_given() {
    let server = TestServer::new();
    server.run("r");
    for (path, body, members) in requests(1) {
        let mut sent = body;
        let mut given = json!({});
        for member in members {
            sent[member] = FINER.into();
            given[member] = FINER.into();
        }
        let record = record(&server, &server.created(path, &sent)["receipt"]);
        assert_eq!(record["body"]["times_given"], given, "{path}");
        assert_eq!(record["redactions"]["count"], 0, "{path}");
        let shown = record.to_string();
        assert!(shown.contains(CUT), "{path}: {shown}");
    }
    for (run, times) in [("r", json!({ "completed_at": FINER })), ("x1", Value::Null)] {
        let time = if times.is_null() { CUT } else { FINER };
        let ended = server.created(
            &format!("/api/v1/runs/{run}/complete"),
            &json!({ "status": "completed", "completed_at": time }),
        );
        let body = record(&server, &ended["receipt"])["body"].clone();
        assert_eq!(
            (&body["completed_at"], &body["times_given"]),
            (&json!(CUT), &times)
        );
    }
    let verified = server.post("/api/v1/verifications", &json!({})).ok();
    assert_eq!(verified["status"], "verified", "{verified}");
}

#[test]
fn a_time_of_six_digits_leaves_no_member() {
    let server = TestServer::new();
    server.run("r");
    for (n, time) in [(2, CUT), (3, "2026-01-01T01:00:00.123456000+01:00")] {
        for (path, mut sent, members) in requests(n) {
            for member in members {
                sent[member] = time.into();
            }
            let made = server.created(path, &sent);
            let body = record(&server, &made["receipt"])["body"].clone();
            assert!(
                body.is_object() && body.get("times_given").is_none(),
                "{path}: {body}"
            );
        }
    }
}

#[test]
fn a_whole_trace_keeps_its_times_as_given() {
    let server = TestServer::new();
    let step = |index: u32, time: &str| json!({ "step_index": index, "skill_name": "s", "status": "success", "timestamp": time });
    let trace = |last: &str| {
        json!({ "run_id": "w", "started_at": FINER, "frozen_timestamp": FINER, "completed_at": FINER,
            "status": "completed", "steps": [step(0, CUT), step(1, last)] })
    };
    let stored = server.created("/api/v1/traces", &trace(FINER));
    let given: Vec<Value> = stored["receipts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|receipt| record(&server, receipt)["body"]["times_given"].clone())
        .collect();
    assert_eq!(
        given,
        [
            json!({ "frozen_timestamp": FINER, "started_at": FINER }),
            Value::Null,
            json!({ "timestamp": FINER }),
            json!({ "completed_at": FINER }),
            Value::Null,
        ]
    );
    assert_eq!(server.post("/api/v1/traces", &trace(FINER)).ok(), stored);
    let mut long = trace(&format!("2026-01-01T00:00:00.{}Z", "1".repeat(44)));
    long["run_id"] = "long".into();
    refused(&server.post("/api/v1/traces", &long), "steps[1].timestamp");
}

#[test]
fn what_differs_beyond_the_microsecond_is_other_content() {
    let server = TestServer::new();
    server.run("r");
    let other = "2026-01-01T00:00:00.123456788Z";
    for (path, body, members) in requests(1) {
        let is_known = ["runs", "steps", "evidence/provider", "contracts"]
            .iter()
            .any(|end| path.ends_with(end));
        if !is_known {
            continue;
        }
        let member = members[0];
        let first = server.created(path, &with(&body, member, FINER));
        let again = server.post(path, &with(&body, member, FINER)).ok();
        assert_eq!(record_id(&again), record_id(&first), "{path}");
        for time in [other, CUT] {
            let refused = server.post(path, &with(&body, member, time));
            assert_eq!(refused.status, 409, "{path}: {}", refused.text());
        }
    }
}

#[test]
fn a_time_longer_than_64_bytes_is_refused_by_its_name() {
    let server = TestServer::new();
    server.run("r");
    let of = |digits: usize| format!("2026-01-01T00:00:00.{}Z", "1".repeat(digits));
    let (most, more) = (of(43), of(44));
    assert_eq!((most.len(), more.len()), (64, 65));
    for (path, body, members) in requests(1) {
        for member in &members {
            refused(&server.post(path, &with(&body, member, &more)), member);
        }
        let made = server.created(path, &with(&body, members[0], &most));
        let record = record(&server, &made["receipt"]);
        assert_eq!(record["body"]["times_given"][members[0]], most, "{path}");
    }
    let end = json!({ "status": "completed", "completed_at": more });
    refused(&server.post("/api/v1/runs/r/complete", &end), "completed_at");
}
