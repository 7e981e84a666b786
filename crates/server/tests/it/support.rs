//! What the tests of runs, traces and logs share: a clock that moves, bodies, hashes, paging.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use evidence::{Timestamp, canonical};
use serde_json::{Value, json};

use crate::server::{Answer, TestServer, now};

static SECONDS: AtomicI64 = AtomicI64::new(0);

/// A second later at each call.
fn ticking() -> Timestamp {
    let seconds = SECONDS.fetch_add(1, Ordering::Relaxed);
    now().checked_add_micros(seconds * 1_000_000).unwrap()
}

/// A time that passes as the real one does, for tests of leases.
pub(crate) fn running() -> Timestamp {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let micros = i64::try_from(BEGAN.elapsed().as_micros()).unwrap();
    now().checked_add_micros(micros).unwrap()
}

/// What a record says besides the request that made it.
#[track_caller]
pub(crate) fn said(record: &Value) -> Value {
    let mut body = record["body"].clone();
    let named = body.as_object_mut().unwrap().remove("request_id");
    assert!(named.is_some_and(|id| id.is_string()), "{record}");
    body
}

/// A server whose clock moves by a second a request.
pub(crate) fn ticking_server() -> TestServer {
    let mut server = TestServer::new();
    server.app.clock = ticking;
    server.router = ::server::router(server.app.clone());
    server
}

impl TestServer {
    /// Starts a run of that id.
    #[track_caller]
    pub(crate) fn run(&self, run_id: &str) -> Value {
        self.created("/api/v1/runs", &json!({ "run_id": run_id }))
    }

    /// The JSON of a record that was written now.
    #[track_caller]
    pub(crate) fn created(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body);
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()
    }

    /// Records a step.
    #[track_caller]
    pub(crate) fn step(&self, run_id: &str, index: u32, status: &str) -> Value {
        self.created(&format!("/api/v1/runs/{run_id}/steps"), &step(index, status))
    }

    /// Completes a run.
    #[track_caller]
    pub(crate) fn complete(&self, run_id: &str) -> Value {
        self.created(
            &format!("/api/v1/runs/{run_id}/complete"),
            &json!({ "status": "completed" }),
        )
    }

    /// Leaves in the ledger.
    pub(crate) fn tree_size(&self) -> u64 {
        self.get("/api/v1/ledger/head").ok()["tree_size"]
            .as_u64()
            .unwrap()
    }
}

/// The least of a step.
pub(crate) fn step(index: u32, status: &str) -> Value {
    json!({ "step_index": index, "skill_name": "search", "status": status })
}

/// Asserts that a body is refused with 422, and which field is named.
#[track_caller]
pub(crate) fn refused(answer: &Answer, field: &str) {
    assert_eq!(answer.problem(422), "invalid");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.starts_with(&format!("{field}:")),
        "{field} is named: {detail}"
    );
}

/// SHA-256 in hex.
pub(crate) fn sha256(text: &str) -> String {
    evidence::hex_string(&evidence::sha256(text.as_bytes()))
}

/// Asserts that the metadata's checksum is that of the rest of the answer.
#[track_caller]
pub(crate) fn assert_checksum(answer: &Value) {
    let mut rest = answer.clone();
    let metadata = rest.as_object_mut().unwrap().remove("metadata").unwrap();
    let text = canonical::to_vec(&canonical::from_serde(&rest).unwrap());
    assert_eq!(metadata["checksum"], canonical::sha256_hex(&text));
    assert_eq!(
        (&metadata["immutable"], &metadata["timezone_str"]),
        (&json!(true), &json!("UTC"))
    );
    assert_eq!(metadata["tenant_id"], "default");
}

/// One field of every item of all pages of a list.
pub(crate) fn pages(server: &TestServer, path: &str, limit: u32, field: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    let join = if path.contains('?') { '&' } else { '?' };
    loop {
        let page = server.get(&format!("{path}{join}limit={limit}{cursor}")).ok();
        all.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|item| item[field].as_str().unwrap().to_owned()),
        );
        assert_eq!(page["has_more"], page["next_cursor"].is_string());
        let Some(next) = page["next_cursor"].as_str() else {
            return all;
        };
        cursor = format!("&cursor={next}");
    }
}
