//! Jobs through HTTP: what is redacted stays verifiable, and large requests and large jobs do not wait for each other.

use axum::http::Method;
use serde_json::{Value, json};

use crate::limits::gzip;
use crate::serve::Served;
use crate::server::TestServer;
use crate::support::ticking_server;

/// A started job under a contract.
fn started(server: &TestServer, job_id: &str) {
    let contract = json!({ "contract_id": job_id, "scope": ["search"] });
    server.created("/api/v1/contracts", &contract);
    let job = json!({ "job_id": job_id, "handler": "deploy", "contract_id": job_id });
    server.created("/api/v1/jobs", &job);
    server.created(&format!("/api/v1/jobs/{job_id}/start"), &json!({}));
}

#[test]
fn what_is_redacted_of_a_job_is_under_the_hash_of_its_event() {
    let server = ticking_server();
    started(&server, "j1");
    let output = json!({ "target": "search", "password": "hunter2" });
    let step = json!({ "step_index": 0, "status": "COMPLETED", "output": output });
    server.created("/api/v1/jobs/j1/steps", &step);
    let error = json!({ "error": "mail ada@example.com" });
    server.created("/api/v1/jobs/j1/fail", &error);
    let events = server.get("/api/v1/jobs/j1/events").ok();
    let mut counted = 0;
    for event in events["events"].as_array().unwrap() {
        let mut rest = event.clone();
        let stored = rest.as_object_mut().unwrap().remove("integrity_hash").unwrap();
        let value = evidence::canonical::from_serde(&rest).unwrap();
        let text = String::from_utf8(evidence::canonical::to_vec(&value)).unwrap();
        assert_eq!(stored, crate::support::sha256(&text));
        counted += event["redactions"]["count"].as_u64().unwrap_or(0);
    }
    // The password, and the address in job_failed and job_retried.
    assert_eq!(counted, 3);
    let verified = server.post("/api/v1/verifications", &json!({})).ok();
    assert_eq!(
        (&verified["status"], &verified["findings"]),
        (&json!("verified"), &json!([]))
    );
}

/// A client that streams what it sends does not know, when it sends the headers, that there is nothing.
#[test]
fn a_body_that_need_not_be_sent_may_be_chunks_of_nothing() {
    let server = ticking_server();
    let job = json!({ "job_id": "j1", "handler": "deploy" });
    server.created("/api/v1/jobs", &job);
    let mut served = Served::of(server);
    let post = |what: &str, headers: &str, chunks: &str| {
        let request = format!(
            "POST /api/v1/jobs/j1/{what} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n{headers}\
             Connection: close\r\n\r\n{chunks}"
        );
        served.exchange(request.as_bytes())
    };
    let refused = post("start", "", "2\r\n{}\r\n0\r\n\r\n");
    assert!(
        refused.starts_with("HTTP/1.1 415 ") && refused.contains("\"content_type\""),
        "what is there must be JSON: {refused}"
    );
    for (what, headers) in [
        ("start", ""),
        ("complete", "Idempotency-Key: k\r\nContent-Encoding: gzip\r\n"),
    ] {
        let done = post(what, headers, "0\r\n\r\n");
        assert!(done.starts_with("HTTP/1.1 201 "), "{what}: {done}");
    }
    served.stop();
}

/// Who parses a large body waits for the job, and who holds the job waits to judge it: not for the same thing.
#[test]
fn a_large_request_about_a_large_job_is_answered() {
    let server = ticking_server();
    started(&server, "j1");
    for index in 0..10 {
        let output = json!({ "target": "search", "log": "x".repeat(60_000) });
        let step = json!({ "step_index": index, "status": "COMPLETED", "output": output });
        server.created("/api/v1/jobs/j1/steps", &step);
    }
    let packed = |body: &Value| gzip(body.to_string().as_bytes());
    let headers = [("content-type", "application/json"), ("content-encoding", "gzip")];
    let failed = server.request(
        Method::POST,
        "/api/v1/jobs/j1/fail",
        &headers,
        packed(&json!({ "error": "boom" })),
    );
    assert_eq!(failed.status, 201, "{}", failed.text());
    server.created("/api/v1/jobs/j1/start", &json!({}));
    let result = json!({ "result": { "log": "x".repeat(1_000_000) } });
    let done = server.request(
        Method::POST,
        "/api/v1/jobs/j1/complete",
        &headers,
        packed(&result),
    );
    assert_eq!(done.status, 201, "{}", done.text());
    assert_eq!(done.json()["verdict"], "INCONCLUSIVE");
}
