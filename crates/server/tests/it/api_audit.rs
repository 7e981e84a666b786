use serde_json::{Value, json};

use crate::schema::Schema;
use crate::server::{TestServer, now};
use crate::support::assert_checksum;

const AUDIT: &str = "/api/v1/logs/audit";
const VERIFICATIONS: &str = "/api/v1/verifications";

fn integrity(server: &TestServer) -> Value {
    let answer = server.get(&format!("{AUDIT}/integrity")).ok();
    assert_checksum(&answer);
    Schema::committed().assert("AuditIntegrityResult", &answer);
    answer["integrity"].clone()
}

#[test]
fn integrity_is_never_verified_until_it_was() {
    let server = TestServer::new();
    server.run("r");
    let before = integrity(&server);
    assert_eq!(
        (
            &before["status"],
            &before["last_verified"],
            &before["hash_chain_valid"]
        ),
        (&json!("never_verified"), &Value::Null, &json!(false))
    );
    let answer = server.post(VERIFICATIONS, &json!({}));
    let made = answer.ok();
    assert_eq!(
        (&made["status"], &made["anomalies_detected"], &made["tree_size"]),
        (&json!("verified"), &json!(0), &json!(1))
    );
    assert_eq!(
        server.get(answer.header("location")).ok(),
        made,
        "it can be asked for again"
    );
    let after = integrity(&server);
    assert_eq!(
        (
            &after["status"],
            &after["anomalies_detected"],
            &after["hash_chain_valid"]
        ),
        (&json!("verified"), &json!(0), &json!(true))
    );
    assert!(after["last_verified"].is_string());
    assert_eq!(after["head"]["tree_size"], 1);
}

#[test]
fn what_a_verification_found_is_tampering() {
    let server = TestServer::new();
    let found = ::server::Verification {
        tenant_id: "default".into(),
        verified_size: 1,
        verified_at: Some(now()),
        last_full_scrub_at: Some(now()),
        findings: 3,
        damaged: Some("verification has 3 findings".into()),
        pending: false,
    };
    server.app.verification.write().unwrap().push(found);
    let shown = integrity(&server);
    assert_eq!(
        (
            &shown["status"],
            &shown["hash_chain_valid"],
            &shown["anomalies_detected"]
        ),
        (&json!("tampered"), &json!(false), &json!(3))
    );
}

#[test]
fn verifications_of_nobody_are_not_found_and_bad_ones_refused() {
    let server = TestServer::new();
    server
        .get(&format!("{VERIFICATIONS}/01900000-0000-7000-8000-000000000000"))
        .problem(404);
    server.get(&format!("{AUDIT}/integrity?x=1")).problem(400);
    server.post(VERIFICATIONS, &json!({ "fast": true })).problem(422);
    server
        .request(axum::http::Method::POST, VERIFICATIONS, &[], "")
        .problem(415);
}
