//! Jobs and signals while the machine's clock is set back, through HTTP.

use std::sync::atomic::{AtomicI64, Ordering};

use evidence::Timestamp;
use serde_json::{Value, json};

use crate::jobs::contract;
use crate::server::{TestServer, now};

/// A server by that clock, with a job under way.
fn server_by(clock: fn() -> Timestamp) -> TestServer {
    let mut server = TestServer::new();
    server.app.clock = clock;
    server.router = ::server::router(server.app.clone());
    server.created("/api/v1/contracts", &contract("c1"));
    server.started("j1");
    server.job_step("j1", 0, "search");
    server.healthy("j1");
    server
}

fn behind(secs: i64) -> Timestamp {
    now().checked_add_micros(-secs * 1_000_000).unwrap()
}

fn block() -> Value {
    json!({ "signal_type": "freeze", "scope": "search", "decision": "block" })
}

#[test]
fn a_signal_without_a_time_is_of_the_job_that_runs_though_the_clock_is_set_back() {
    static BEHIND: AtomicI64 = AtomicI64::new(0);
    fn clock() -> Timestamp {
        behind(BEHIND.load(Ordering::Acquire))
    }
    let server = server_by(clock);
    BEHIND.store(3_600, Ordering::Release);
    let signal = server.created("/api/v1/signals", &block());
    assert_eq!(signal["at"], now().to_string());
    let id = signal["signal_id"].as_str().unwrap();
    assert_eq!(
        server.get(&format!("/api/v1/signals/{id}")).ok()["at"],
        signal["at"]
    );
    let done = server.acted("j1", "complete", &json!({}));
    assert_eq!(done["verdict"], "FAIL");
    assert_eq!(server.rollout("j1")["authorized"], false);
}

#[test]
fn a_time_that_is_given_with_a_signal_stays_as_it_is_given() {
    static BEHIND: AtomicI64 = AtomicI64::new(0);
    fn clock() -> Timestamp {
        behind(BEHIND.load(Ordering::Acquire))
    }
    let server = server_by(clock);
    BEHIND.store(3_600, Ordering::Release);
    // Before the start and after the end, by who was there.
    for at in [behind(60), behind(-60)] {
        let mut signal = block();
        signal["at"] = at.to_string().into();
        assert_eq!(server.created("/api/v1/signals", &signal)["at"], at.to_string());
    }
    let done = server.acted("j1", "complete", &json!({}));
    assert_eq!(done["verdict"], "PASS");
}
