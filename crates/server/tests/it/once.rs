//! Idempotency keys: those that callers check themselves, and the header of every POST.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Method;
use bytes::Bytes;
use evidence::Timestamp;
use http_body_util::{BodyExt, Full};
use ledger::once::{OnOutage, Once, OnceError, OnceOptions, OnceSaid};
use serde_json::{Value, json};
use store::Fault;
use store::once::{OnceAct, OnceAsk, OnceStore};
use store::sqlite::SqliteOnce;

use crate::access::Keyed;
use crate::server::{Answer, TestServer, now};
use crate::support::{refused, running, sha256, ticking_server};

impl TestServer {
    fn check(&self, key: &str, body: &Value) -> Value {
        self.post(&format!("/api/v1/idempotency/{key}/check"), body).ok()
    }

    fn on_key(&self, key: &str, act: &str, body: &Value) -> Answer {
        self.post(&format!("/api/v1/idempotency/{key}/{act}"), body)
    }

    /// A POST with an Idempotency-Key.
    fn keyed(&self, path: &str, key: &str, body: &Value) -> Answer {
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
    let server = ticking_server();
    let lease = server.check("k", &json!({ "request": 1 }))["lease"].clone();
    let mut said = Value::Null;
    // A second passes with each request, of this test and of others.
    for _ in 0..80 {
        said = server.check("k", &json!({ "request": 1 }));
        if said["is_new"] == true {
            break;
        }
    }
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

/// A backend that cannot answer, or has lost its data.
struct Broken {
    lost: bool,
    asked: Arc<AtomicU64>,
}

impl OnceStore for Broken {
    fn apply(&mut self, asks: &[OnceAsk]) -> Vec<Result<OnceSaid, OnceError>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let error = || {
            if self.lost {
                OnceError::Lost
            } else {
                OnceError::Unavailable("pulled out".into())
            }
        };
        asks.iter().map(|_| Err(error())).collect()
    }

    fn sweep(&mut self, _: Timestamp) -> Result<u32, OnceError> {
        Ok(0)
    }
}

fn broken(lost: bool, on_outage: OnOutage) -> TestServer {
    let mut server = TestServer::new();
    let options = OnceOptions {
        on_outage,
        ..server.app.once.options().clone()
    };
    let asked = Arc::default();
    server.app.once = Once::new(Box::new(Broken { lost, asked }), options);
    server.router = ::server::router(server.app.clone());
    server
}

#[test]
fn when_the_store_cannot_answer_nothing_passes() {
    let server = broken(false, OnOutage::Refuse);
    let answer = server.on_key("k", "check", &json!({ "request": 1 }));
    assert_eq!(answer.problem(503), "idempotency_unavailable");
    assert!(!answer.header("retry-after").is_empty());
    let size = server.tree_size();
    let answer = server.keyed("/api/v1/runs", "k", &json!({ "run_id": "r" }));
    assert_eq!(answer.problem(503), "idempotency_unavailable");
    assert_eq!(server.tree_size(), size, "and nothing was done");
    assert_eq!(
        server.get("/api/v1/idempotency/k").problem(503),
        "idempotency_unavailable"
    );
    server.run("r");
}

#[test]
fn what_the_operator_lets_pass_is_on_record() {
    let server = broken(false, OnOutage::Allow);
    let said = server.check("k", &json!({ "request": 1 }));
    assert_eq!(
        (&said["is_new"], &said["bypassed"], &said["lease"]),
        (&json!(true), &json!(true), &Value::Null)
    );
    let answer = server.keyed("/api/v1/runs", "k-2", &json!({ "run_id": "r" }));
    assert_eq!(answer.status, 201, "{}", answer.text());
    let records = server
        .get("/api/v1/logs/system?event_type=IDEMPOTENCY_BYPASSED")
        .ok();
    assert_eq!(records["total"], 2);
    let details: Vec<_> = records["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["details"].clone())
        .collect();
    assert_eq!(
        (&details[0]["operation"], &details[0]["idempotency_key"]),
        (&json!("run_start"), &json!("k-2"))
    );
    assert_eq!(
        (&details[1]["operation"], &details[1]["request_hash"]),
        (&json!("idempotency_check"), &json!(sha256("1")))
    );
}

#[test]
fn lost_data_is_no_outage() {
    let server = broken(true, OnOutage::Allow);
    let answer = server.on_key("k", "check", &json!({ "request": 1 }));
    assert_eq!(answer.problem(503), "idempotency_data_lost");
    assert_eq!(
        server.keyed("/api/v1/runs", "k", &json!({})).problem(503),
        "idempotency_data_lost"
    );
}

#[test]
fn nothing_is_done_whose_answer_could_not_be_encrypted() {
    for on_outage in [OnOutage::Refuse, OnOutage::Allow] {
        let mut server = TestServer::new();
        let folder = server.app.ledger.options().data_dir.clone();
        let key_file = folder.join("keys").join("readable by others");
        std::fs::create_dir_all(key_file.parent().unwrap()).unwrap();
        std::fs::write(&key_file, "00".repeat(32)).unwrap();
        std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let options = OnceOptions {
            key_file,
            on_outage,
            ..server.app.once.options().clone()
        };
        server.app.once = Once::new(Box::new(SqliteOnce::new(&folder.join("state.db"))), options);
        server.router = ::server::router(server.app.clone());
        server.run("r");
        let size = server.tree_size();
        let answer = server.keyed("/api/v1/runs", "k", &json!({}));
        assert_eq!(answer.problem(503), "idempotency_unavailable");
        let step =
            json!({ "run_id": "r", "step_index": 0, "replay_behavior": "skip", "idempotency_key": "k" });
        for _ in 0..2 {
            let answer = server.post("/api/v1/replay/steps", &step);
            assert_eq!(
                answer.problem(503),
                "idempotency_unavailable",
                "and no lease was taken"
            );
        }
        assert_eq!(server.tree_size(), size);
    }
}

/// A backend that answers no completion as long as some are to fail, and counts them.
struct Forgetful {
    inner: SqliteOnce,
    failing: Arc<AtomicU64>,
}

impl OnceStore for Forgetful {
    fn apply(&mut self, asks: &[OnceAsk]) -> Vec<Result<OnceSaid, OnceError>> {
        let ask_one = |ask: &OnceAsk| {
            let fails = matches!(ask.act, OnceAct::Complete { .. })
                && self
                    .failing
                    .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1))
                    .is_ok();
            if fails {
                return Err(OnceError::Unavailable("pulled out".into()));
            }
            self.inner.apply(std::slice::from_ref(ask)).remove(0)
        };
        asks.iter().map(ask_one).collect()
    }

    fn sweep(&mut self, at: Timestamp) -> Result<u32, OnceError> {
        self.inner.sweep(at)
    }
}

#[test]
fn a_key_whose_store_was_away_is_completed_when_it_is_back() {
    let mut server = TestServer::new();
    let failing = Arc::new(AtomicU64::new(3));
    let state = server.app.ledger.options().data_dir.join("state.db");
    let backend = Forgetful {
        inner: SqliteOnce::new(&state),
        failing: Arc::clone(&failing),
    };
    server.app.once = Once::new(Box::new(backend), server.app.once.options().clone());
    server.router = ::server::router(server.app.clone());
    let body = json!({ "run_id": "r" });
    let began = Instant::now();
    let first = server.keyed("/api/v1/runs", "k", &body);
    assert_eq!(first.status, 201, "{}", first.text());
    assert!(failing.load(Ordering::Acquire) > 0, "nobody waited for the key");
    let size = server.tree_size();
    loop {
        // Tasks go on while the runtime is driven.
        server
            .runtime
            .block_on(async { tokio::time::sleep(Duration::from_millis(50)).await });
        let again = server.keyed("/api/v1/runs", "k", &body);
        if again.status == 201 {
            assert_eq!(
                (again.header("idempotent-replayed"), &again.body),
                ("true", &first.body)
            );
            break;
        }
        assert_eq!(again.problem(409), "idempotency_in_progress");
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "it was never completed"
        );
    }
    assert_eq!(failing.load(Ordering::Acquire), 0);
    assert_eq!(server.tree_size(), size, "and nothing was done again");
}

#[test]
fn what_may_have_been_done_is_not_done_again() {
    let (server, fault) = TestServer::failing();
    let size = server.tree_size();
    // A head that never stands still: nobody can say what became of the batch.
    for _ in 0..3 {
        fault.arm(Fault::HeadMoved);
    }
    let answer = server.keyed("/api/v1/runs", "k", &json!({}));
    assert_eq!(answer.problem(503), "outcome_unknown");
    for _ in 0..2 {
        let again = server.keyed("/api/v1/runs", "k", &json!({}));
        assert_eq!(again.problem(409), "earlier_outcome_unknown");
    }
    // Another key is another request; of the first nothing was done, which nobody knew.
    assert_eq!(server.keyed("/api/v1/runs", "l", &json!({})).status, 201);
    assert_eq!(server.tree_size(), size + 1);
}

#[test]
fn a_request_that_takes_longer_than_a_lease_is_not_done_by_another() {
    let (mut server, fault) = TestServer::failing();
    let options = OnceOptions {
        lease_secs: 1,
        ..server.app.once.options().clone()
    };
    let state = server.app.ledger.options().data_dir.join("state.db");
    server.app.once = Once::new(Box::new(SqliteOnce::new(&state)), options);
    server.app.clock = running;
    server.router = ::server::router(server.app.clone());
    let size = server.tree_size();
    let post = || server.keyed("/api/v1/runs", "k", &json!({}));
    std::thread::scope(|scope| {
        let hold = fault.hold();
        let first = scope.spawn(post);
        std::thread::sleep(Duration::from_millis(500));
        for _ in 0..5 {
            assert_eq!(post().problem(409), "idempotency_in_progress");
            std::thread::sleep(Duration::from_millis(500));
        }
        drop(hold);
        assert_eq!(first.join().unwrap().status, 201);
    });
    assert_eq!(post().header("idempotent-replayed"), "true");
    assert_eq!(server.tree_size(), size + 1);
}

#[test]
fn a_post_that_is_sent_again_is_answered_again() {
    let server = TestServer::new();
    let (path, body) = (
        "/api/v1/audit-events",
        json!({ "event_type": "SignalAcknowledged", "entity_type": "SIGNAL",
        "entity_id": "s", "actor_type": "HUMAN", "actor_id": "ada" }),
    );
    let first = server.keyed(path, "\"key 1\"", &body);
    assert_eq!(first.status, 201, "{}", first.text());
    assert_eq!(first.header("idempotent-replayed"), "");
    let size = server.tree_size();
    // The same value in other bytes is the same request.
    let text = format!(" {}\n", body.to_string().replace(":\"s\"", ": \"\\u0073\""));
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", "\"key 1\""),
    ];
    let again = server.request(Method::POST, path, &headers, text);
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.header("content-type"), first.header("content-type"));
    assert_eq!(server.tree_size(), size, "nothing was written");
    let mut other = body.clone();
    other["entity_id"] = json!("other");
    assert_eq!(
        server.keyed(path, "\"key 1\"", &other).problem(422),
        "idempotency_key_reused"
    );
    assert_eq!(
        server.keyed("/api/v1/runs", "\"key 1\"", &body).problem(422),
        "idempotency_key_reused"
    );
    assert_eq!(server.keyed(path, "key-2", &other).status, 201);
    assert_eq!(
        server.post(path, &body).status,
        201,
        "without a key each is a record"
    );
    assert_eq!(server.tree_size(), size + 2);
}

#[test]
fn what_was_refused_is_decided_again() {
    let server = TestServer::new();
    let step = json!({ "step_index": 0, "skill_name": "s", "status": "success" });
    assert_eq!(
        server.keyed("/api/v1/runs/r/steps", "k", &step).problem(404),
        "not_found"
    );
    server.run("r");
    let answer = server.keyed("/api/v1/runs/r/steps", "k", &step);
    assert_eq!(
        (answer.status.as_u16(), answer.header("idempotent-replayed")),
        (201, "")
    );
    assert_eq!(
        server
            .keyed("/api/v1/runs/r/steps", "k", &step)
            .header("idempotent-replayed"),
        "true"
    );
    // A body that is no JSON is refused as ever, and may be mended under the same key.
    let headers = [("content-type", "application/json"), ("idempotency-key", "k-2")];
    assert_eq!(
        server
            .request(Method::POST, "/api/v1/runs", &headers, "{")
            .problem(400),
        "malformed"
    );
    assert_eq!(server.keyed("/api/v1/runs", "k-2", &json!({})).status, 201);
}

#[test]
fn a_malformed_key_is_refused_before_anything_is_done() {
    let server = TestServer::new();
    let size = server.tree_size();
    for bad in ["", "a b", "\"open", "\"\"", "a,b", &"k".repeat(256), "\"a\"; p=1"] {
        let answer = server.keyed("/api/v1/runs", bad, &json!({}));
        assert_eq!(answer.problem(400), "bad_idempotency_key", "{bad}");
    }
    let twice = [
        ("content-type", "application/json"),
        ("idempotency-key", "a"),
        ("idempotency-key", "a"),
    ];
    let answer = server.request(Method::POST, "/api/v1/runs", &twice, "{}");
    assert_eq!(answer.problem(400), "bad_idempotency_key");
    assert_eq!(server.tree_size(), size);
    assert_eq!(
        server.keyed("/api/v1/runs", &"k".repeat(255), &json!({})).status,
        201
    );
    // Reads do not look at it.
    let answer = server.request(
        Method::GET,
        "/api/v1/ledger/head",
        &[("idempotency-key", "a b")],
        Body::empty(),
    );
    assert_eq!(answer.status, 200);
}

#[test]
fn while_a_request_is_answered_the_same_is_told_to_wait() {
    let server = TestServer::new();
    let server = Arc::new(server);
    // Held as a handler that has not answered yet holds it.
    let key = ledger::once::OnceKey {
        space: ledger::once::OnceSpace::Answer,
        tenant: "default".into(),
        key: "5:local:k".into(),
    };
    let check = ledger::once::Check {
        hash: None,
        label: None,
        ttl_secs: 60,
    };
    let held = server
        .runtime
        .block_on(server.app.once.check(&key, check, now()))
        .unwrap();
    assert!(held.is_new());
    let answer = server.keyed("/api/v1/runs", "k", &json!({}));
    assert_eq!(answer.problem(409), "idempotency_in_progress");
    assert_eq!(answer.header("retry-after"), "1");
    // Of many that come at once one is done.
    let size = server.tree_size();
    let body = json!({ "run_id": "once" });
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (server, body) = (Arc::clone(&server), body.clone());
            std::thread::spawn(move || server.keyed("/api/v1/runs", "many", &body).status.as_u16())
        })
        .collect();
    let mut statuses: Vec<u16> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    statuses.sort_unstable();
    assert!(
        statuses.iter().all(|status| matches!(status, 201 | 409)),
        "{statuses:?}"
    );
    assert_eq!(statuses[0], 201);
    assert_eq!(server.tree_size(), size + 1);
}

#[test]
fn nobody_is_answered_with_what_another_was_told() {
    let keyed = Keyed::new();
    let post = |who: &str, run_id: &str| {
        let key = &keyed.keys.iter().find(|(name, _)| *name == who).unwrap().1;
        let bearer = format!("Bearer {key}");
        let headers = [
            ("content-type", "application/json"),
            ("authorization", bearer.as_str()),
            ("idempotency-key", "k"),
        ];
        keyed.server.request(
            Method::POST,
            "/api/v1/runs",
            &headers,
            json!({ "run_id": run_id }).to_string(),
        )
    };
    assert_eq!(post("writer", "r-1").status, 201);
    assert_eq!(
        post("admin", "r-2").status,
        201,
        "another principal's key is another key"
    );
    assert_eq!(post("foreign", "r-3").status, 201);
    assert_eq!(post("writer", "r-1").header("idempotent-replayed"), "true");
    assert_eq!(
        post("reader", "r-1").problem(403),
        "forbidden",
        "who may not is not answered from what is kept"
    );
}

#[test]
fn a_secret_that_is_shown_once_is_not_in_a_replayed_answer() {
    let keyed = Keyed::new();
    let admin = &keyed.keys.iter().find(|(name, _)| *name == "admin").unwrap().1;
    let bearer = format!("Bearer {admin}");
    let headers = [
        ("content-type", "application/json"),
        ("authorization", bearer.as_str()),
        ("idempotency-key", "k"),
    ];
    let make = || {
        keyed
            .server
            .request(Method::POST, "/api/v1/keys", &headers, r#"{"role":"reader"}"#)
    };
    let (first, again) = (make(), make());
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (201, 201));
    let secret = first.json()["key"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("dpn_"));
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.json()["key_id"], first.json()["key_id"]);
    assert!(!again.text().contains(&secret) && again.json().get("key").is_none());
    // Nor is it on disk.
    let folder = &keyed.server.app.ledger.options().data_dir;
    for file in ["state.db", "state.db-wal"] {
        let bytes = std::fs::read(folder.join(file)).unwrap_or_default();
        assert!(
            !bytes.windows(secret.len()).any(|part| part == secret.as_bytes()),
            "{file}"
        );
    }
}

#[test]
fn a_large_body_and_a_packed_one_are_the_same_request_again() {
    let server = TestServer::new();
    let goal = "word ".repeat(12_000);
    let body = json!({ "run_id": "r", "goal": goal, "plan": [{ "x": "y ".repeat(20_000) }] });
    assert_eq!(server.keyed("/api/v1/runs", "k", &body).status, 201);
    assert_eq!(
        server
            .keyed("/api/v1/runs", "k", &body)
            .header("idempotent-replayed"),
        "true"
    );
    let mut packed = flate2_like(body.to_string().as_bytes());
    let headers = [
        ("content-type", "application/json"),
        ("content-encoding", "gzip"),
        ("idempotency-key", "k"),
    ];
    let answer = server.request(Method::POST, "/api/v1/runs", &headers, packed.clone());
    assert_eq!(answer.header("idempotent-replayed"), "true", "{}", answer.text());
    packed.truncate(packed.len() / 2);
    assert_eq!(
        server
            .request(Method::POST, "/api/v1/runs", &headers, packed)
            .problem(400),
        "malformed"
    );
}

/// A gzip member of stored blocks: no packer is needed for that.
fn flate2_like(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut parts = bytes.chunks(65_535).peekable();
    while let Some(part) = parts.next() {
        let length = u16::try_from(part.len()).unwrap();
        out.push(u8::from(parts.peek().is_none()));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(part);
    }
    let crc = bytes.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    });
    out.extend_from_slice(&(!crc).to_le_bytes());
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_le_bytes());
    out
}
