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
        let progress = verifier.progress(&tenant.ledger().row.origin);
        assert!(progress.verified_at.is_some(), "{}", tenant.tenant_id);
        server
            .app
            .verification
            .write()
            .unwrap()
            .push(::server::Verification {
                tenant_id: tenant.tenant_id.clone(),
                verified_at: progress.verified_at,
                ..Default::default()
            });
    }
    let ready = server.get("/readyz").ok();
    assert_eq!(ready, serde_json::json!({ "status": "ready", "reasons": [] }));
}

#[test]
fn what_verification_found_makes_the_server_not_ready() {
    let server = TestServer::new();
    let damaged = ::server::Verification {
        tenant_id: "default".into(),
        damaged: Some("leaf 3 has another hash".into()),
        ..Default::default()
    };
    server.app.verification.write().unwrap().push(damaged);
    let answer = server.get("/readyz");
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("leaf 3"), "{}", answer.text());
    assert_eq!(server.get("/api/v1/ledger/head").ok()["status"], "damaged");
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
