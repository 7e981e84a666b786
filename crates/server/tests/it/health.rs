use std::sync::{Arc, Barrier};
use std::time::Duration;

use ::server::BLOCKING_AT_ONCE;
use serde_json::json;

use crate::access::Keyed;
use crate::server::TestServer;

#[test]
fn a_fresh_server_lives_and_is_ready_when_its_first_verification_has_ended() {
    let server = TestServer::new();
    assert_eq!(server.get("/healthz").text(), "ok\n");
    // No verifier runs here: nobody has said that the ledgers are in order.
    let waiting = server.get("/readyz");
    assert_eq!(waiting.status, 503);
    assert!(
        waiting.text().contains("first verification"),
        "{}",
        waiting.text()
    );
    let verifier = ::ledger::Verifier::open(&server.app.ledger).unwrap();
    let at = (server.app.clock)();
    verifier.incremental(at);
    for tenant in server.app.ledger.tenants() {
        let origin = tenant.ledger().row.origin.clone();
        let progress = verifier.progress(&origin);
        assert!(progress.verified_at.is_some(), "{}", tenant.tenant_id);
        server
            .app
            .verification
            .write()
            .unwrap()
            .push(::server::Verification {
                tenant_id: tenant.tenant_id.clone(),
                origin,
                verified_at: progress.verified_at,
                ..Default::default()
            });
    }
    let ready = server.get("/readyz").ok();
    assert_eq!(ready, json!({ "status": "ready", "reasons": [] }));
}

#[test]
fn what_verification_found_makes_the_server_not_ready() {
    let server = TestServer::new();
    let damaged = ::server::Verification {
        tenant_id: "default".into(),
        origin: "deponent.local/default".into(),
        damaged: Some("leaf 3 has another hash".into()),
        ..Default::default()
    };
    server.app.verification.write().unwrap().push(damaged);
    let answer = server.get("/readyz");
    assert_eq!(answer.status, 503);
    let text = answer.text();
    assert!(text.contains("1 ledger: damaged"), "{text}");
    assert!(
        !text.contains("default") && !text.contains("leaf 3"),
        "whose and how stands in the log: {text}"
    );
    assert_eq!(server.get("/api/v1/ledger/head").ok()["status"], "damaged");
}

#[test]
fn a_server_whose_disk_is_busy_for_a_second_is_ready() {
    let server = TestServer::new();
    let all = Arc::new(Barrier::new(BLOCKING_AT_ONCE + 1));
    for _ in 0..BLOCKING_AT_ONCE {
        let (app, all) = (server.app.clone(), Arc::clone(&all));
        server.runtime.spawn(async move {
            let busy = app.blocking(move |_| {
                all.wait();
                std::thread::sleep(Duration::from_millis(1_500));
                Ok(())
            });
            busy.await.unwrap();
        });
    }
    all.wait();
    let reasons = server.get("/readyz").json()["reasons"].clone();
    // No verifier runs here.
    let waiting = "2 ledgers: the first verification has not ended";
    assert_eq!(reasons, json!([waiting]));
}

#[test]
fn the_public_metrics_name_no_tenant_and_an_operators_do() {
    let keyed = Keyed::new();
    let text = |who: &str| keyed.get_as(who, "/metrics").text();
    for who in ["nobody", "admin"] {
        let text = text(who);
        for tenant in ["acme", "other", "default", "_instance"] {
            assert!(!text.contains(tenant), "{who}: {text}");
        }
        assert!(text.contains("\ndeponent_ledgers 4\n"), "{text}");
        assert!(text.contains("\ndeponent_ledgers_refused 0\n"), "{text}");
    }
    let told = text("operator");
    assert!(
        told.contains("deponent_ledger_leaves{origin=\"deponent.local/acme\"} 4"),
        "{told}"
    );
    let leaves = |text: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("deponent_leaves "));
        line.unwrap().parse::<u64>().unwrap()
    };
    let each = told
        .lines()
        .filter(|line| line.starts_with("deponent_ledger_leaves{"));
    let sum: u64 = each
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum();
    assert_eq!(leaves(&told), sum);
    // What is not ready is counted, not named; no verifier runs here.
    let answer = keyed.get_as("nobody", "/readyz");
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.json()["reasons"],
        json!(["4 ledgers: the first verification has not ended"])
    );
}

#[test]
fn metrics_count_records_and_requests() {
    let server = TestServer::new();
    server.fill(3);
    server.get("/nowhere");
    let text = server.get("/metrics").text();
    for line in [
        "deponent_ledger_leaves{origin=\"deponent.local/default\"} 3",
        "deponent_requests_total{class=\"other\",status=\"404\"} 1",
        "deponent_bodies_bytes 0",
        "deponent_stopped 0",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }
    assert!(text.contains("process_resident_memory_bytes "));
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(
            value.parse::<f64>().is_ok() && name.starts_with(|c: char| c.is_ascii_lowercase()),
            "{line}"
        );
    }
}
