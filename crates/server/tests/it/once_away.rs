//! Idempotency keys while their store is away, or has lost them.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;
use evidence::Timestamp;
use ledger::once::{OnOutage, Once, OnceError, OnceOptions, OnceSaid};
use serde_json::{Value, json};
use store::Fault;
use store::once::{OnceAct, OnceAsk, OnceStore};
use store::sqlite::SqliteOnce;
use tower::ServiceExt;

use crate::server::TestServer;
use crate::support::sha256;

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

/// It was there at the start: under a key made anew nobody could open what is kept.
#[test]
fn a_named_key_file_that_is_gone_is_refused_and_not_made() {
    let mut server = TestServer::new();
    let folder = server.app.ledger.options().data_dir.clone();
    let key_file = folder.join("named.key");
    let options = OnceOptions {
        key_file: key_file.clone(),
        key_is_named: true,
        ..server.app.once.options().clone()
    };
    server.app.once = Once::new(Box::new(SqliteOnce::new(&folder.join("state.db"))), options);
    server.router = ::server::router(server.app.clone());
    let size = server.tree_size();
    for _ in 0..2 {
        let answer = server.keyed("/api/v1/runs", "k", &json!({}));
        assert_eq!(answer.problem(503), "idempotency_unavailable");
    }
    assert_eq!((server.tree_size(), key_file.exists()), (size, false));
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
    let failing = Arc::new(AtomicU64::new(u64::MAX));
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
    failing.store(2, Ordering::Release);
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
        assert!(began.elapsed() < Duration::from_mins(2), "it was never completed");
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

/// A backend that takes its time for checks: until the sender is gone.
struct Slow(SqliteOnce, Receiver<()>);

impl OnceStore for Slow {
    fn apply(&mut self, asks: &[OnceAsk]) -> Vec<Result<OnceSaid, OnceError>> {
        if asks.iter().any(|ask| matches!(ask.act, OnceAct::Check { .. })) {
            let _ = self.1.recv();
        }
        self.0.apply(asks)
    }

    fn sweep(&mut self, at: Timestamp) -> Result<u32, OnceError> {
        self.0.sweep(at)
    }
}

#[test]
fn a_client_that_goes_away_while_its_key_is_checked_leaves_no_key_behind() {
    let mut server = TestServer::new();
    let state = server.app.ledger.options().data_dir.join("state.db");
    let (checking, until_gone) = channel();
    server.app.once = Once::new(
        Box::new(Slow(SqliteOnce::new(&state), until_gone)),
        server.app.once.options().clone(),
    );
    server.router = ::server::router(server.app.clone());
    let body = json!({ "run_id": "r" });
    let request = Request::post("/api/v1/runs")
        .header("content-type", "application/json")
        .header("host", "localhost:4318")
        .header("idempotency-key", "k")
        .body(Body::from(body.to_string()))
        .unwrap();
    let answer = server.router.clone().oneshot(request);
    let left = server
        .runtime
        .block_on(async { tokio::time::timeout(Duration::from_millis(50), answer).await });
    assert!(left.is_err(), "it was answered before the client went away");
    drop(checking);
    let began = Instant::now();
    loop {
        // Tasks go on while the runtime is driven.
        server
            .runtime
            .block_on(async { tokio::time::sleep(Duration::from_millis(50)).await });
        let again = server.keyed("/api/v1/runs", "k", &body);
        if again.status == 201 {
            assert_eq!(again.header("idempotent-replayed"), "true");
            return;
        }
        assert_eq!(again.problem(409), "idempotency_in_progress");
        assert!(
            began.elapsed() < Duration::from_mins(2),
            "the key is held for ever"
        );
    }
}
