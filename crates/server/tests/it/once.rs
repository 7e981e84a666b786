//! Idempotency keys that callers check themselves.

use std::sync::atomic::{AtomicI64, Ordering};

use axum::body::Body;
use axum::http::Method;
use bytes::Bytes;
use evidence::Timestamp;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use crate::access::Keyed;
use crate::server::{Answer, TestServer, now};
use crate::support::{refused, sha256};

impl TestServer {
    pub(crate) fn check(&self, key: &str, body: &Value) -> Value {
        self.post(&format!("/api/v1/idempotency/{key}/check"), body).ok()
    }

    pub(crate) fn on_key(&self, key: &str, act: &str, body: &Value) -> Answer {
        self.post(&format!("/api/v1/idempotency/{key}/{act}"), body)
    }

    /// A POST with an Idempotency-Key.
    pub(crate) fn keyed(&self, path: &str, key: &str, body: &Value) -> Answer {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        self.request(Method::POST, path, &headers, body.to_string())
    }
}

#[test]
fn a_key_is_new_once_and_then_a_duplicate_or_a_conflict() {
    let server = TestServer::new();
    let first = server.check(
        "k",
        &json!({ "request": { "b": 1.0, "a": [2] }, "trace_id": "t-1" }),
    );
    assert_eq!(
        (&first["result"], &first["is_new"]),
        (&json!("new"), &json!(true))
    );
    assert_eq!(first["stored_hash"], sha256(r#"{"a":[2],"b":1}"#));
    assert_eq!(
        (&first["stored_trace_id"], &first["previous"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(first["lease"].as_str().unwrap().len(), 32);
    assert_eq!(first["lease_until"], "2026-01-02T03:05:05.000006Z");
    assert_eq!(first["expires_at"], "2026-01-03T03:04:05.000006Z");
    let again = server.check(
        "k",
        &json!({ "request": { "a": [2], "b": 1 }, "trace_id": "other" }),
    );
    assert_eq!(
        (&again["result"], &again["is_duplicate"]),
        (&json!("duplicate"), &json!(true))
    );
    assert_eq!(
        (&again["stored_trace_id"], &again["status"]),
        (&json!("t-1"), &json!("pending"))
    );
    assert_eq!(again["lease"], Value::Null, "the lease is the holder's");
    let other = server.check("k", &json!({ "request": null }));
    assert_eq!(
        (&other["result"], &other["is_conflict"]),
        (&json!("conflict"), &json!(true))
    );
    assert_eq!(other["stored_hash"], first["stored_hash"]);
    let stands = server.get("/api/v1/idempotency/k").ok();
    assert_eq!(stands["status"], "pending");
    assert_eq!(
        (&stands["tenant_id"], &stands["hash"]),
        (&json!("default"), &first["stored_hash"])
    );
}

#[test]
fn the_holder_completes_it_and_nobody_else() {
    let server = TestServer::new();
    let lease = server.check("k", &json!({ "request": 1 }))["lease"].clone();
    let wrong = json!({ "lease": "0".repeat(32), "trace_id": "t" });
    assert_eq!(server.on_key("k", "complete", &wrong).problem(409), "lease_lost");
    refused(&server.on_key("k", "complete", &json!({ "lease": "x" })), "lease");
    let complete = json!({ "lease": lease, "trace_id": "t-2", "response": { "ok": true } });
    let done = server.on_key("k", "complete", &complete).ok();
    assert_eq!(
        (&done["status"], &done["trace_id"]),
        (&json!("completed"), &json!("t-2"))
    );
    assert_eq!(done["response_hash"], sha256(r#"{"ok":true}"#));
    assert_eq!(
        server.on_key("k", "complete", &complete).ok(),
        done,
        "an answer was lost"
    );
    let relabelled = json!({ "lease": lease, "trace_id": "t-3", "response": { "ok": true } });
    assert_eq!(
        server.on_key("k", "complete", &relabelled).ok(),
        done,
        "the first stays"
    );
    let other = json!({ "lease": lease, "response": 2 });
    assert_eq!(server.on_key("k", "complete", &other).problem(409), "lease_lost");
    let fail = json!({ "lease": lease, "error": "late" });
    assert_eq!(server.on_key("k", "fail", &fail).problem(409), "lease_lost");
    assert_eq!(
        server
            .on_key("k", "renew", &json!({ "lease": lease }))
            .problem(409),
        "lease_lost"
    );
    let again = server.check("k", &json!({ "request": 1 }));
    assert_eq!(
        (&again["status"], &again["stored_trace_id"]),
        (&json!("completed"), &json!("t-2"))
    );
    assert_eq!(
        server.on_key("unknown", "complete", &complete).problem(404),
        "not_found"
    );
}

#[test]
fn a_failed_key_may_be_tried_again_and_its_reason_is_cut_and_redacted() {
    let server = TestServer::new();
    let lease = server.check("k", &json!({ "request": 1 }))["lease"].clone();
    let error = format!("{} ada@example.com", "ä".repeat(600));
    let failed = server
        .on_key("k", "fail", &json!({ "lease": lease, "error": error }))
        .ok();
    assert_eq!(failed["status"], "failed");
    assert_eq!(failed["error"].as_str().unwrap().chars().count(), 500);
    assert_eq!(failed["expires_at"], "2026-01-02T03:09:05.000006Z", "300 seconds");
    let again = server.check("k", &json!({ "request": 2 }));
    assert_eq!(
        (&again["result"], &again["previous"]),
        (&json!("new"), &json!("failed"))
    );
    let error = json!({ "lease": again["lease"], "error": "ada@example.com" });
    assert_eq!(
        server.on_key("k", "fail", &error).ok()["error"],
        "<REDACTED_EMAIL>"
    );
}

#[test]
fn a_dead_holders_key_is_new_and_the_dead_one_is_refused() {
    static SECS: AtomicI64 = AtomicI64::new(0);
    fn clock() -> Timestamp {
        let micros = SECS.load(Ordering::Acquire) * 1_000_000;
        now().checked_add_micros(micros).unwrap()
    }
    let mut server = TestServer::new();
    server.app.clock = clock;
    server.router = ::server::router(server.app.clone());
    let lease = server.check("k", &json!({ "request": 1 }))["lease"].clone();
    SECS.store(59, Ordering::Release);
    assert_eq!(server.check("k", &json!({ "request": 1 }))["is_new"], false);
    SECS.store(61, Ordering::Release);
    let said = server.check("k", &json!({ "request": 1 }));
    assert_eq!(
        (&said["result"], &said["previous"]),
        (&json!("new"), &json!("expired"))
    );
    let stale = json!({ "lease": lease, "response": 1 });
    assert_eq!(server.on_key("k", "complete", &stale).problem(409), "lease_lost");
    server
        .on_key("k", "complete", &json!({ "lease": said["lease"] }))
        .ok();
}

/// Seconds that have passed on the clock of the test below.
static LATE_SECS: AtomicI64 = AtomicI64::new(0);

fn late() -> Timestamp {
    let micros = LATE_SECS.load(Ordering::Acquire) * 1_000_000;
    now().checked_add_micros(micros).unwrap()
}

#[test]
fn a_lease_begins_when_the_body_has_been_read() {
    let mut server = TestServer::new();
    server.app.clock = late;
    server.router = ::server::router(server.app.clone());
    // Of a body that takes half a minute, all of which would be missing at the lease's end.
    let slow = |act: &str, body: &Value| {
        let body = Full::new(Bytes::from(body.to_string())).map_frame(|frame| {
            LATE_SECS.fetch_add(30, Ordering::AcqRel);
            frame
        });
        let path = format!("/api/v1/idempotency/k/{act}");
        let headers = [("content-type", "application/json")];
        server
            .request(Method::POST, &path, &headers, Body::new(body))
            .ok()
    };
    let until = |secs: i64| json!(now().checked_add_micros(secs * 1_000_000).unwrap().to_string());
    let checked = slow("check", &json!({ "request": 1 }));
    assert_eq!(
        (&checked["result"], &checked["lease_until"]),
        (&json!("new"), &until(30 + 60))
    );
    let renewed = slow("renew", &json!({ "lease": checked["lease"] }));
    assert_eq!(renewed["lease_until"], until(60 + 60));
}

#[test]
fn a_deleted_key_was_never_there() {
    let server = TestServer::new();
    let delete = |key: &str| {
        server.request(
            Method::DELETE,
            &format!("/api/v1/idempotency/{key}"),
            &[],
            Body::empty(),
        )
    };
    assert_eq!(delete("k").status, 204, "also of an unknown one");
    let lease = server.check("k", &json!({ "request": 1 }))["lease"].clone();
    assert_eq!(delete("k").status, 204);
    assert_eq!(server.get("/api/v1/idempotency/k").problem(404), "not_found");
    assert_eq!(
        server
            .on_key("k", "complete", &json!({ "lease": lease }))
            .problem(404),
        "not_found"
    );
    assert_eq!(server.check("k", &json!({ "request": 2 }))["result"], "new");
}

#[test]
fn times_and_keys_have_limits() {
    let server = TestServer::new();
    for bad in [0, -1, 2_592_001] {
        let body = json!({ "request": 1, "ttl_seconds": bad });
        refused(&server.on_key("k", "check", &body), "ttl_seconds");
    }
    assert_eq!(
        server.check("k", &json!({ "request": 1, "ttl_seconds": 1 }))["expires_at"],
        "2026-01-02T03:04:06.000006Z"
    );
    assert_eq!(
        server.check("l", &json!({ "request": 1, "ttl_seconds": 2_592_000 }))["result"],
        "new"
    );
    refused(
        &server.on_key(&"k".repeat(257), "check", &json!({ "request": 1 })),
        "key",
    );
    refused(&server.on_key("a%0Ab", "check", &json!({ "request": 1 })), "key");
    assert_eq!(server.on_key("k", "check", &json!({})).problem(422), "invalid");
    assert_eq!(
        server.check("a%2Fb%20%C3%A4", &json!({ "request": 1 }))["result"],
        "new"
    );
}

#[test]
fn keys_of_tenants_are_apart_and_writers_use_them() {
    let keyed = Keyed::new();
    let check = |who| {
        keyed.as_(
            who,
            Method::POST,
            "/api/v1/idempotency/k/check",
            &json!({ "request": 1 }),
        )
    };
    assert_eq!(check("writer").ok()["result"], "new");
    assert_eq!(check("foreign").ok()["result"], "new");
    assert_eq!(
        check("admin").ok()["result"],
        "duplicate",
        "of the tenant, not of the principal"
    );
    check("reader").problem(403);
}
