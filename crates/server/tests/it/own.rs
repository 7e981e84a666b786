//! Deponent's own long work through HTTP: seen as it goes on, called off by who may.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::Method;
use evidence::Timestamp;
use ledger::Ledger;
use ledger::own::{Clock, OwnEnd, OwnJob, OwnWork, Watch, untold};
use serde_json::{Value, json};

use crate::access::Keyed;
use crate::server::now;

fn new_id(_: Timestamp) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("event-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

const CLOCK: Clock = Clock { now, new_id };

/// Work that has done two of a hundred parts, and goes on until it is told to stop.
fn under_way(ledger: &Ledger, job_id: &str) -> std::thread::JoinHandle<()> {
    let tenant = ledger.tenant("acme").unwrap();
    let about = (OwnWork::Archiving, None);
    let (id, watch) = (job_id.into(), Arc::<Watch>::default());
    let job = OwnJob::begin(ledger, &tenant, about, Some(&id), &watch, CLOCK).unwrap();
    watch.total.store(100, Ordering::Relaxed);
    watch.done.store(2, Ordering::Relaxed);
    std::thread::spawn(move || {
        job.during(&mut untold, |watch| {
            while !watch.is_stopped() {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        job.end(OwnEnd::Stopped);
    })
}

#[test]
fn own_work_is_seen_between_its_records_and_called_off_by_admins_alone() {
    let keyed = Keyed::new();
    let working = under_way(&keyed.server.app.ledger, "w-1");
    let progress = || keyed.get_as("reader", "/api/v1/jobs/w-1/progress").ok();
    while progress()["percentage"] == json!(0) {
        std::thread::sleep(Duration::from_millis(20));
    }
    // Less than goes on record.
    assert_eq!(progress()["percentage"], json!(2));
    assert_eq!(
        keyed.get_as("reader", "/api/v1/jobs/w-1").ok()["handler"],
        "deponent.archiving"
    );
    let events = keyed.get_as("reader", "/api/v1/jobs/w-1/events").ok();
    assert_eq!(events["events"].as_array().map(Vec::len), Some(2), "{events}");

    let cancel = |who: &str, reason: &str| {
        let body = json!({ "reason": reason });
        keyed.as_(who, Method::POST, "/api/v1/jobs/w-1/cancel", &body)
    };
    for (who, status) in [
        ("reader", 403),
        ("writer", 403),
        ("auditor", 403),
        ("foreign", 404),
    ] {
        cancel(who, "no").problem(status);
    }
    assert_eq!(cancel("admin", "").problem(422), "invalid");
    for what in ["start", "complete"] {
        let path = format!("/api/v1/jobs/w-1/{what}");
        assert_eq!(
            keyed.as_("admin", Method::POST, &path, &json!({})).problem(409),
            "job_own"
        );
    }
    assert_eq!(progress()["stage"], "running");
    let called_off = cancel("admin", "not today").ok();
    working.join().unwrap();
    assert_eq!(
        (&called_off["stage"], &called_off["progress"]["percentage"]),
        (&json!("cancelled"), &json!(2)),
        "{called_off}"
    );
    assert_eq!(cancel("admin", "again").problem(409), "job_stage");
    // Who tried, and who did.
    let decisions = keyed.noted("admin", "authorization.decision");
    let over = |decision: &str| {
        let of = |noted: &&Value| noted["action"] == "manage" && noted["decision"] == decision;
        decisions.iter().filter(of).count()
    };
    assert_eq!((over("DENY"), over("ALLOW")), (1, 3), "{decisions:?}");
}
