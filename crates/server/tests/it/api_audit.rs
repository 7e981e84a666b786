use std::io::{Seek, SeekFrom, Write};

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
        // The run's record, and the first two of the verification's own job.
        (&json!("verified"), &json!(0), &json!(3))
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
    assert_eq!(after["head"]["tree_size"], 4);
}

#[test]
fn a_verification_is_a_job_that_only_it_moves() {
    let server = TestServer::new();
    server.run("r");
    let made = server.post(VERIFICATIONS, &json!({})).ok();
    let path = format!("/api/v1/jobs/{}", made["verification_id"].as_str().unwrap());
    let job = server.get(&path).ok();
    assert_eq!(
        (&job["stage"], &job["handler"], &job["progress"]["percentage"]),
        (&json!("completed"), &json!("deponent.verification"), &json!(100))
    );
    assert!(job["result_hash"].is_string());
    let reason = json!({ "reason": "no" });
    // It has ended.
    assert_eq!(
        server.post(&format!("{path}/cancel"), &reason).problem(409),
        "job_stage"
    );
    assert_eq!(
        server.post(&format!("{path}/start"), &json!({})).problem(409),
        "job_own"
    );
    let forged = json!({ "handler": "deponent.verification" });
    crate::support::refused(&server.post("/api/v1/jobs", &forged), "handler");
    let cancel = |id: &str| server.post(&format!("{VERIFICATIONS}/{id}/cancel"), &reason);
    // It has ended.
    assert_eq!(
        cancel(made["verification_id"].as_str().unwrap()).problem(409),
        "job_stage"
    );
    assert_eq!(cancel("nobody").problem(404), "not_found");
}

#[test]
fn damage_that_ends_a_verification_is_its_answer() {
    let server = TestServer::new();
    server.run("r");
    server.sign();
    let server = server.reopen_after(|folder| {
        let path = folder.join("deponent.db");
        let connection = rusqlite::Connection::open(&path).unwrap();
        let ask = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, u32>(0)).unwrap();
        assert_eq!(ask("PRAGMA wal_checkpoint(TRUNCATE)"), 0);
        let root = ask("SELECT rootpage FROM sqlite_master WHERE name = 'checkpoints'");
        let at = u64::from(root - 1) * u64::from(ask("PRAGMA page_size"));
        drop(connection);
        let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&[0xff; 64]).unwrap();
    });
    let answer = server.post(VERIFICATIONS, &json!({})).ok();
    assert_eq!(
        (&answer["status"], &answer["level"], &answer["tree_size"]),
        (&json!("tampered"), &json!("INVALID"), &Value::Null),
        "{answer}"
    );
    assert!(answer["anomalies_detected"].as_u64().unwrap() > 0, "{answer}");
}

#[test]
fn what_a_verification_found_is_tampering() {
    let server = TestServer::new();
    let found = ::server::Verification {
        tenant_id: "default".into(),
        origin: "deponent.local/default".into(),
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
