//! Which request made a record.

use axum::http::Method;
use serde_json::{Value, json};

use crate::erasure::{because, erase, record_id};
use crate::server::TestServer;

/// Kinds whose bodies name no request: hashed, compared or given back whole, or the service's own.
const NAMELESS: [&str; 10] = [
    "job.event",
    "governance.audit",
    "governance.contract",
    "evidence.integrity",
    "lineage.evidence",
    "lineage.deterministic",
    "lineage.ai_output",
    "lineage.ai_metrics",
    // Counted together.
    "authorization.decision",
    // Of no request.
    "retention.archived",
];

/// Kind and request of every record of the tenant but those that name none, oldest first.
pub(crate) fn named(server: &TestServer) -> Vec<(String, Value)> {
    let tenant = server.app.ledger.tenant("default").unwrap();
    let ledger_no = tenant.ledger().row.ledger_no;
    let records = server.app.ledger.records(&tenant);
    let record = |leaf| {
        let key = store::LeafKey::new(ledger_no, leaf);
        let record = records.read(&[key]).unwrap().pop().unwrap();
        let header: Value = serde_json::from_slice(&record.header).unwrap();
        let body: Value = serde_json::from_slice(record.body.bytes()?).unwrap();
        let kind = header["kind"].as_str().unwrap().to_owned();
        let is_named = header["source_component"] != "ledger" && !NAMELESS.contains(&kind.as_str());
        is_named.then(|| (kind, body["request_id"].clone()))
    };
    (0..server.tree_size()).filter_map(record).collect()
}

/// Of a server that was sent no OTLP.
pub(crate) fn assert_all_named(server: &TestServer) {
    for (kind, id) in named(server) {
        assert!(id.is_string(), "{kind} names {id}");
    }
}

#[test]
fn what_a_request_made_names_it() {
    let server = TestServer::new();
    let post = |id: &str, path: &str, body: Value| {
        let headers = [("content-type", "application/json"), ("x-request-id", id)];
        let answer = server.request(Method::POST, path, &headers, body.to_string());
        assert_eq!(answer.status, 201, "{path}: {}", answer.text());
        assert_eq!(answer.headers["x-request-id"], id);
    };
    post("r-1", "/api/v1/runs", json!({ "run_id": "r", "goal": "z" }));
    let step = json!({ "step_index": 0, "skill_name": "s", "status": "success" });
    post("r-2", "/api/v1/runs/r/steps", step.clone());
    // Told again, by a request of another id: the record is the first one's.
    let headers = [("content-type", "application/json"), ("x-request-id", "r-3")];
    let again = server.request(Method::POST, "/api/v1/runs/r/steps", &headers, step.to_string());
    assert_eq!(again.status, 200);
    post(
        "a\"b\\c",
        "/api/v1/runs/r/complete",
        json!({ "status": "completed" }),
    );
    post(
        "tel:123-45-6789",
        "/api/v1/system-records",
        json!({ "component": "c", "event_type": "HEALTH",
        "severity": "INFO", "summary": "s" }),
    );
    let ids: Vec<(String, Value)> = named(&server);
    let of = |kind: &str| -> Vec<&Value> {
        ids.iter()
            .filter(|(of, _)| of == kind)
            .map(|(_, id)| id)
            .collect()
    };
    assert_eq!(of("run.started"), [&json!("r-1")]);
    assert_eq!(of("trace.step"), [&json!("r-2")]);
    assert_eq!(of("run.completed"), [&json!("a\"b\\c")]);
    assert_eq!(of("trace.completed"), [&json!("a\"b\\c")]);
    let system = of("system.record");
    assert!(
        system.last().unwrap().as_str().unwrap().contains("<REDACTED"),
        "{system:?}"
    );
    let verified = server.post("/api/v1/verifications", &json!({})).ok();
    assert_eq!(verified["status"], "verified", "{verified}");
}

#[test]
fn nothing_is_erased_for_the_hash_of_a_request_id() {
    let server = TestServer::new();
    server.run("r");
    let log = |id: &str, input: &str, output: Value| {
        let headers = [("content-type", "application/json"), ("x-request-id", id)];
        let body = json!({ "run_id": "r", "input": { "said": input }, "output": output });
        let answer = server.request(Method::POST, "/api/v1/provenance", &headers, body.to_string());
        assert_eq!(answer.status, 201, "{}", answer.text());
        record_id(&answer.json())
    };
    // The hash of the word is that of the other's output.
    let first = log("null", "one", json!({ "text": "two" }));
    let other = log("x", "three", Value::Null);
    assert_eq!(erase(&server, &first, &because()).status, 200);
    assert!(server.get(&format!("/api/v1/records/{first}")).ok()["body"].is_null());
    assert_eq!(
        server.get(&format!("/api/v1/records/{other}")).ok()["body"]["output"],
        Value::Null
    );
    assert!(server.get(&format!("/api/v1/records/{other}")).ok()["body"].is_object());
}
