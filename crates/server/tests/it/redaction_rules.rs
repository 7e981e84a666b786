//! What redaction does to a record, a fingerprint, and by the rules of a tenant.

use serde_json::{Value, json};

use crate::jobs::governed;
use crate::redaction::planted;
use crate::server::{Answer, TestServer, export, span};
use crate::support::sha256;

fn rules(server: &TestServer, settings: &Value) -> Answer {
    server.request(
        axum::http::Method::PUT,
        "/api/v1/redaction",
        &[("content-type", "application/json")],
        settings.to_string(),
    )
}

#[track_caller]
fn assert_verified(server: &TestServer) {
    let verified = server.post("/api/v1/verifications", &json!({})).ok();
    assert_eq!(verified["status"], "verified", "{verified}");
}

#[test]
fn a_step_without_secrets_has_no_member_for_them() {
    let server = TestServer::new();
    server.run("r");
    let step = server.step("r", 0, "success");
    let id = step["receipt"]["record_id"].as_str().unwrap();
    let record = server.get(&format!("/api/v1/records/{id}")).ok();
    assert_eq!(record["redactions"], json!({ "count": 0, "patterns": [] }));
    assert!(record["body"].get("redactions").is_none());
}

#[test]
fn a_fingerprint_is_that_of_the_text_as_sent() {
    let server = TestServer::new();
    let before = server.tree_size();
    let answer = server
        .post("/api/v1/fingerprint", &json!({ "text": planted() }))
        .ok();
    assert_eq!(answer["fingerprint"], sha256(&planted()));
    assert_eq!(server.tree_size(), before);
    assert_eq!(
        server.post("/api/v1/fingerprint", &json!({})).problem(422),
        "invalid"
    );
}

#[test]
fn a_tenant_adds_rules_and_takes_patterns_away_and_each_change_is_an_audit_event() {
    let server = TestServer::new();
    let put = |settings: &Value| rules(&server, settings);
    let before = server.get("/api/v1/redaction").ok();
    assert_eq!(
        (&before["fields"], &before["off"], &before["patterns"]),
        (&json!([]), &json!([]), &json!([]))
    );
    for (bad, field) in [
        (
            json!({ "patterns": [{ "name": "x", "pattern": "(" }] }),
            "patterns",
        ),
        (
            json!({ "patterns": [{ "name": "x", "pattern": "(a|b)*" }] }),
            "patterns",
        ),
        (
            json!({ "patterns": [{ "name": "x", "pattern": "((a{1,99}){1,99}){1,99}" }] }),
            "patterns",
        ),
        (json!({ "off": ["all"] }), "off"),
        (json!({ "fields": ["a b"] }), "fields"),
    ] {
        crate::support::refused(&put(&bad), field);
    }
    assert_eq!(server.tree_size(), 0, "what is refused changes nothing");

    let settings = json!({ "fields": ["Kundennummer"], "off": ["email"], "patterns": [{ "name": "order", "pattern": "ORD-[0-9]+" }] });
    let set = put(&settings).ok();
    assert_eq!(set["fields"], json!(["kundennummer"]));
    let event = server
        .get("/api/v1/logs/audit?event_type=PolicyRuleModified")
        .ok();
    let entry = &event["items"][0];
    assert_eq!(
        (&entry["entity_id"], &entry["actor_id"]),
        (&json!("redaction"), &json!("local"))
    );

    server.run("r");
    let step = server.created(
        "/api/v1/runs/r/steps",
        &json!({ "step_index": 0, "skill_name": "s", "status": "success",
            "params": { "kundennummer": "7", "t": "ORD-12 a@b.example 123-45-6789" } }),
    );
    let id = step["receipt"]["record_id"].as_str().unwrap();
    let record = server.get(&format!("/api/v1/records/{id}")).ok();
    assert_eq!(
        record["body"]["step"]["params"],
        json!({ "kundennummer": "<REDACTED>", "t": "<REDACTED_ORDER> a@b.example <REDACTED_US_SSN>" })
    );
    let mut sent = span(3, 1);
    sent["attributes"] = json!([{ "key": "note", "value": { "stringValue": "ORD-12 a@b.example" } }]);
    server.spans(&[sent]);
    let records = server
        .get(&format!(
            "/api/v1/records?run_id={}&kind=trace.step",
            "03".repeat(16)
        ))
        .ok();
    let note = &records["items"][0]["body"]["otel"]["attributes"]["note"];
    assert_eq!(note, "<REDACTED_ORDER> a@b.example");

    // Somebody's own event in the same words changes nothing.
    server.created(
        "/api/v1/audit-events",
        &json!({ "event_type": "PolicyRuleModified", "entity_type": "POLICY_RULE", "entity_id": "redaction",
            "actor_type": "SYSTEM", "before_state": {}, "after_state": { "off": ["us_ssn"] } }),
    );
    assert_eq!(server.get("/api/v1/redaction").ok()["off"], json!(["email"]));
    // Null is absent, as everywhere.
    let nothing = put(&json!({ "fields": null, "off": null, "patterns": null })).ok();
    assert_eq!(
        (&nothing["fields"], &nothing["off"], &nothing["patterns"]),
        (&json!([]), &json!([]), &json!([]))
    );
    assert_verified(&server);
}

/// What is projected is what the records say, whatever the rules.
#[test]
fn a_rule_for_a_word_of_a_runs_start_does_not_part_the_run_from_its_record() {
    let server = TestServer::new();
    rules(&server, &json!({ "fields": ["source"] })).ok();
    server.run("r");
    server.step("r", 0, "success");
    assert_verified(&server);
}

/// What stands in the records of that kind, of a run that spans made.
fn bodies(server: &TestServer, trace: u8, kind: &str) -> Vec<Value> {
    let run_id = format!("{trace:02x}").repeat(16);
    let found = server
        .get(&format!("/api/v1/records?run_id={run_id}&kind={kind}"))
        .ok();
    let items = found["items"].as_array().unwrap();
    items.iter().map(|item| item["body"].clone()).collect()
}

#[test]
fn a_pattern_that_meets_ids_leaves_what_is_noted_of_spans_as_it_is() {
    let server = TestServer::new();
    let pattern = |name: &str, pattern: &str| json!({ "name": name, "pattern": pattern });
    let patterns = [pattern("long", "[0-9a-f]{32}"), pattern("short", "[0-9a-f]{16}")];
    rules(&server, &json!({ "patterns": patterns })).ok();
    server.spans(&[span(3, 1), span(3, 2)]);
    let other = |number| {
        let mut other = span(3, number);
        other["name"] = json!("other");
        other
    };
    for _ in 0..2 {
        let refused = server.post("/v1/traces", &export(&[other(1), other(2)])).ok();
        assert_eq!(refused["partialSuccess"]["rejectedSpans"], "2", "{refused}");
    }
    let abouts: Vec<Value> = bodies(&server, 3, "evidence.capture_failure")
        .into_iter()
        .map(|body| body["about"].clone())
        .collect();
    let about = |number| format!("trace {} span {number:016x}", "03".repeat(16));
    assert_eq!(abouts.len(), 2, "{abouts:?}");
    for number in [1, 2] {
        assert!(abouts.contains(&json!(about(number))), "{abouts:?}");
    }
    assert_verified(&server);
}

#[test]
fn a_rule_for_the_resource_leaves_one_environment_that_is_known_again() {
    let server = TestServer::new();
    rules(&server, &json!({ "fields": ["resource"] })).ok();
    server.spans(&[span(3, 1)]);
    server.spans(&[span(3, 2)]);
    let found = bodies(&server, 3, "evidence.environment");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["resource"], json!({ "service.name": "<REDACTED>" }));
    assert_verified(&server);
}

#[test]
fn a_pattern_that_meets_dates_refuses_no_contract_and_no_signal() {
    let server = TestServer::new();
    let dates = json!([{ "name": "dob", "pattern": "[0-9]{4}-[0-9]{2}-[0-9]{2}" }]);
    rules(&server, &json!({ "patterns": dates })).ok();
    server.created(
        "/api/v1/contracts",
        &json!({ "contract_id": "c", "scope": ["search"], "proposed_changes": [{ "scope": "search" }],
            "activation_window_start": "2020-01-01T00:00:00Z", "activation_window_end": "2030-01-01T00:00:00Z" }),
    );
    let signal = json!({ "signal_type": "t", "scope": "s", "decision": "block" });
    server.created("/api/v1/signals", &signal);
    let contract = server.get("/api/v1/contracts/c").ok();
    assert!(!contract.to_string().contains("REDACTED"), "{contract}");
    // What names something is refused as before.
    let named = json!({ "signal_type": "t", "scope": "of 1970-01-01", "decision": "block" });
    assert_eq!(
        server.post("/api/v1/signals", &named).problem(422),
        "name_redacted"
    );
    assert_verified(&server);
}

/// Sets a tenant's rules.
#[track_caller]
fn set(server: &TestServer, settings: &Value) {
    let headers = [("content-type", "application/json")];
    let path = "/api/v1/redaction";
    server
        .request(axum::http::Method::PUT, path, &headers, settings.to_string())
        .ok();
}

#[test]
fn a_whole_trace_of_which_redaction_leaves_no_step_is_refused_whole() {
    let server = TestServer::new();
    set(&server, &json!({ "fields": ["step"] }));
    let size = server.tree_size();
    let trace = json!({
        "run_id": "t1", "status": "completed",
        "steps": [{ "step_index": 0, "skill_name": "search", "status": "success", "outcome_category": "SUCCESS" }],
    });
    let refused = server.post("/api/v1/traces", &trace);
    assert_eq!(refused.problem(422), "invalid");
    assert_eq!(server.tree_size(), size, "nothing of it is on record");
    assert_eq!(server.get("/api/v1/traces/t1").problem(404), "not_found");
    set(&server, &json!({}));
    let stored = server.created("/api/v1/traces", &trace);
    assert_eq!(stored["total_steps"], 1);
}

#[test]
fn no_rule_of_a_tenant_changes_a_verdict_or_what_it_brings() {
    let words = json!([{ "name": "words", "pattern": "[A-Z]{3,12}|[0-9]+[.][0-9]+[.][0-9]+" }]);
    for settings in [
        json!({ "fields": ["verdict", "result", "auditor_version", "status", "severity", "event_type", "event"] }),
        json!({ "patterns": words }),
    ] {
        let server = governed();
        server.started("j1");
        server.job_step("j1", 0, "billing");
        server.healthy("j1");
        server.started("j2");
        server.job_step("j2", 0, "search");
        set(&server, &settings);
        let done = server.acted("j1", "complete", &json!({}));
        assert_eq!(done["verdict"], "FAIL");
        let rollout = server.rollout("j1");
        assert_eq!(
            (&rollout["verdict"], &rollout["action"]),
            (&json!("FAIL"), &json!("rollback"))
        );
        let audit = server.get("/api/v1/audits/j1").ok();
        assert!(!audit.to_string().contains("<REDACTED"), "{audit}");
        let incident_id = done["incident_id"].as_str().unwrap();
        let incident = server.get(&format!("/api/v1/incidents/{incident_id}")).ok();
        assert_eq!(
            (&incident["severity"], &incident["status"]),
            (&json!("HIGH"), &json!("OPEN"))
        );
        let breached = server.get("/api/v1/logs/audit?event_type=LimitBreached").ok();
        assert_eq!(breached["total"], 1, "{breached}");
        assert_eq!(
            server.acted("j2", "complete", &json!({}))["verdict"],
            "INCONCLUSIVE"
        );
        set(&server, &json!({}));
        let decision = json!({ "decision": "proceed", "actor_id": "ada", "reason": "seen" });
        server.created("/api/v1/audits/j2/resolve", &decision);
        assert_eq!(server.rollout("j2")["action"], "proceed");
        let verified = server.post("/api/v1/verifications", &json!({})).ok();
        assert_eq!(verified["status"], "verified", "{verified}");
    }
}

#[test]
fn no_rule_of_a_tenant_changes_what_somebody_decides_and_its_reason_is_redacted() {
    let words = json!([{ "name": "words", "pattern": "[A-Za-z0-9]{4,}" }]);
    for (settings, reason) in [
        (
            json!({ "fields": ["decision", "audit_id", "event", "event_type", "entity_type", "status", "actor_type", "reason"] }),
            "<REDACTED>",
        ),
        (json!({ "patterns": words }), "<REDACTED_WORDS> bob"),
    ] {
        let server = governed();
        server.started("j1");
        server.job_step("j1", 0, "search");
        assert_eq!(
            server.acted("j1", "complete", &json!({}))["verdict"],
            "INCONCLUSIVE"
        );
        let audit_id = server.get("/api/v1/audits/j1").ok()["audit_id"].clone();
        let incident = json!({ "severity": "HIGH", "summary": "over budget", "source_run_id": "run-0001" });
        let incident = server.created("/api/v1/incidents", &incident);
        set(&server, &settings);
        let decision = json!({ "decision": "proceed", "actor_id": "ada0", "reason": "asked bob" });
        let resolved = server.created("/api/v1/audits/j1/resolve", &decision);
        let again = server.post("/api/v1/audits/j1/resolve", &decision).ok();
        assert_eq!(again["receipt"], resolved["receipt"]);
        let rollout = server.rollout("j1");
        assert_eq!(rollout["action"], "proceed");
        assert_eq!(rollout["resolution"]["reason"], reason);
        assert_eq!(rollout["resolution"]["actor_id"], "ada0");
        let record = rollout["resolution"]["receipt"]["record_id"].as_str().unwrap();
        let record = server.get(&format!("/api/v1/records/{record}")).ok();
        assert_eq!(record["body"]["audit_id"], audit_id);
        assert_eq!(record["redactions"]["count"], 1, "{record}");
        let id = incident["incident_id"].as_str().unwrap();
        let by = json!({ "actor_type": "HUMAN", "actor_id": "ada0", "reason": "asked bob" });
        let taken = server.created(&format!("/api/v1/incidents/{id}/acknowledge"), &by);
        assert_eq!(taken["status"], "ACKNOWLEDGED");
        assert_eq!(taken["history"][1]["reason"], reason);
        let record = taken["audit_receipt"]["record_id"].as_str().unwrap();
        let record = server.get(&format!("/api/v1/records/{record}")).ok();
        let body = &record["body"];
        assert_eq!(body["event_type"], "IncidentAcknowledged");
        assert_eq!(body["action_reason"], reason);
        assert_eq!(
            body["after_state"],
            json!({ "source_run_id": "run-0001", "status": "ACKNOWLEDGED" })
        );
        assert_eq!(record["redactions"]["count"], 1, "{record}");
        // An opening too, whose every text is the caller's.
        let opened = json!({ "severity": "LOW", "summary": "asked bob" });
        let opened = server.created("/api/v1/incidents", &opened);
        assert_eq!(opened["status"], "OPEN");
        set(&server, &json!({}));
        assert_verified(&server);
    }
}
