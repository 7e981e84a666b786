//! `POST /api/v1/audit-events`, `POST /api/v1/system-records`, and the policy decisions of runs.

use serde_json::{Value, json};

use crate::server::TestServer;
use crate::support::{refused, said};

const PATH: &str = "/api/v1/audit-events";

/// The least of an event about a limit.
fn event(event_type: &str, more: &Value) -> Value {
    let mut event = json!({
        "event_type": event_type, "entity_type": "LIMIT", "entity_id": "l1", "actor_type": "SYSTEM",
    });
    let more = more.as_object().unwrap().clone();
    event.as_object_mut().unwrap().extend(more);
    event
}

/// The record that a receipt is of.
fn record(server: &TestServer, answer: &Value) -> Value {
    let id = answer["receipt"]["record_id"].as_str().unwrap();
    server.get(&format!("/api/v1/records/{id}")).ok()
}

#[test]
fn an_audit_event_is_a_record_and_its_entry_id_is_the_records() {
    let server = TestServer::new();
    let sent = event(
        "LimitUpdated",
        &json!({
            "actor_type": "AGENT", "actor_id": "planner", "action_reason": "too tight", "correlation_id": "c1",
            "before_state": { "max": 1 }, "after_state": { "max": 2.5, "n": { "a": [1, null] } },
        }),
    );
    let answer = server.created(PATH, &sent);
    assert_eq!(answer["entry_id"], answer["receipt"]["record_id"]);
    let record = record(&server, &answer);
    assert_eq!(
        said(&record),
        json!({
            "action_reason": "too tight", "actor_id": "planner", "after_state": { "max": 2.5, "n": { "a": [1, null] } },
            "before_state": { "max": 1 }, "entity_id": "l1", "entity_type": "LIMIT", "event_type": "LimitUpdated",
        })
    );
    let header = &record["header"];
    assert_eq!(header["actor"], json!({ "id": "planner", "type": "AGENT" }));
    assert_eq!(
        (
            &header["kind"],
            &header["correlation_id"],
            &header["origin"],
            &header["source_domain"]
        ),
        (
            &json!("audit.event"),
            &json!("c1"),
            &json!("AGENT"),
            &json!("POLICY")
        )
    );
    // No identity: the same again is another record.
    let again = server.created(PATH, &sent);
    assert_ne!(again["entry_id"], answer["entry_id"]);
    let listed = server.get("/api/v1/records?kind=audit.event").ok();
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
}

#[test]
fn a_humans_id_stands_in_the_body_and_not_in_the_header() {
    let server = TestServer::new();
    let human = json!({ "actor_type": "HUMAN", "actor_id": "ada@example.org" });
    let answer = server.created(PATH, &event("LimitBreached", &human));
    let record = record(&server, &answer);
    assert_eq!(record["header"]["actor"], json!({ "type": "HUMAN" }));
    assert!(!record["header"].to_string().contains("ada@"));
    assert_eq!(record["body"]["actor_id"], "ada@example.org");
}

#[test]
fn every_broken_rule_of_an_audit_event_is_named() {
    let server = TestServer::new();
    let state = json!({ "a": 1 });
    for (event_type, more, field) in [
        ("LimitDeleted", json!({}), "event_type"),
        ("limitbreached", json!({}), "event_type"),
        (
            "LimitBreached",
            json!({ "entity_type": "POLICY_RULE" }),
            "entity_type",
        ),
        ("LimitBreached", json!({ "entity_type": "RUN" }), "entity_type"),
        (
            "EmergencyOverrideActivated",
            json!({ "entity_type": "" }),
            "entity_type",
        ),
        ("LimitBreached", json!({ "entity_id": "" }), "entity_id"),
        ("LimitBreached", json!({ "entity_id": "a\nb" }), "entity_id"),
        (
            "LimitBreached",
            json!({ "entity_id": "x".repeat(257) }),
            "entity_id",
        ),
        ("LimitBreached", json!({ "actor_type": "ROBOT" }), "actor_type"),
        ("LimitBreached", json!({ "actor_type": "HUMAN" }), "actor_id"),
        ("LimitBreached", json!({ "actor_type": "AGENT" }), "actor_id"),
        (
            "LimitBreached",
            json!({ "actor_type": "HUMAN", "actor_id": null }),
            "actor_id",
        ),
        ("LimitBreached", json!({ "before_state": state }), "before_state"),
        ("LimitBreached", json!({ "after_state": [1] }), "after_state"),
        (
            "LimitBreached",
            json!({ "action_reason": "x".repeat(70_000) }),
            "action_reason",
        ),
        ("LimitBreached", json!({ "correlation_id": "" }), "correlation_id"),
        ("LimitCreated", json!({}), "after_state"),
        ("LimitCreated", json!({ "before_state": state }), "after_state"),
        ("LimitUpdated", json!({ "after_state": state }), "before_state"),
        ("LimitUpdated", json!({ "before_state": state }), "after_state"),
        (
            "LimitUpdated",
            json!({ "before_state": state, "after_state": null }),
            "after_state",
        ),
        (
            "PolicyRuleRetired",
            json!({ "entity_type": "POLICY_RULE", "after_state": state }),
            "before_state",
        ),
    ] {
        refused(&server.post(PATH, &event(event_type, &more)), field);
    }
    let unknown = server.post(PATH, &event("LimitBreached", &json!({ "tenant_id": "other" })));
    assert_eq!(unknown.problem(422), "invalid");
    assert_eq!(server.post(PATH, &json!({})).problem(422), "invalid");
    assert_eq!(server.tree_size(), 0, "nothing of all that was written");
}

#[test]
fn a_system_record_keeps_its_words_and_its_time() {
    let server = TestServer::new();
    let path = "/api/v1/system-records";
    let sent = json!({
        "component": "scheduler", "event_type": "STARTUP", "severity": "WARN", "summary": "late",
        "details": { "pid": 7 }, "host": "h1", "caused_by": "AUTOMATION", "correlation_id": "run-1",
        "occurred_at": "2026-11-20T08:00:00+02:00",
    });
    let answer = server.created(path, &sent);
    let record = record(&server, &answer);
    assert_eq!(
        said(&record),
        json!({
            "caused_by": "AUTOMATION", "component": "scheduler", "details": { "pid": 7 }, "event_type": "STARTUP",
            "host": "h1", "severity": "WARN", "summary": "late",
        })
    );
    assert_eq!(record["header"]["correlation_id"], "run-1");
    assert_eq!(record["header"]["occurred_at"], "2026-11-20T06:00:00.000000Z");
    for (field, value) in [
        ("severity", json!("FATAL")),
        ("caused_by", json!("NATURE")),
        ("component", json!("")),
        ("event_type", json!("a\u{7}")),
        ("summary", json!("")),
        ("details", json!([1])),
        ("host", json!("")),
        ("correlation_id", json!("x".repeat(300))),
        ("occurred_at", json!("yesterday")),
    ] {
        let mut bad = sent.clone();
        bad[field] = value;
        refused(&server.post(path, &bad), field);
    }
    // These words make a tenant only where the ledger itself writes them.
    let mut tenant = sent;
    tenant["event_type"] = json!("TENANT_CREATED");
    tenant["component"] = json!("ledger");
    tenant["details"] = json!({ "tenant_id": "evil", "tenant_no": 9 });
    server.created(path, &tenant);
    assert_eq!(server.tree_size(), 2);
}

#[test]
fn a_policy_decision_is_evidence_of_its_run() {
    let server = TestServer::new();
    server.run("r1");
    let path = "/api/v1/runs/r1/evidence/policy-decision";
    let sent = json!({
        "policy_type": "budget", "policy_rule_id": "rule", "policy_version": "3", "decision": "DENIED",
        "decision_reason": "too much", "decision_confidence": 0.75, "policies_evaluated": ["p1", "p2"],
        "policy_results": { "p1": "pass", "p2": "fail" }, "thresholds_used": { "max": 266 },
        "customer_guardrail_result": "blocked", "provider_moderation_result": { "flagged": false },
        "decision_reason_codes": ["OVER"],
    });
    let answer = server.created(path, &sent);
    assert_eq!(
        (&answer["run_id"], &answer["evidence_class"]),
        (&json!("r1"), &json!("policy_decisions"))
    );
    let record = record(&server, &answer);
    assert_eq!(said(&record), sent);
    assert_eq!(
        (
            &record["header"]["run_id"],
            &record["header"]["run_seq"],
            &record["header"]["trace_id"]
        ),
        (&json!("r1"), &json!(1), &json!("trace_r1"))
    );
    server.created(
        path,
        &json!({ "policy_type": "permission", "decision": "GRANTED" }),
    );
    let governance = server.get("/api/v1/logs/llm-runs/r1/governance").ok();
    let decisions: Vec<_> = governance["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| {
            (
                event["event_type"].as_str().unwrap(),
                event["decision"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(decisions, [("budget", "DENIED"), ("permission", "GRANTED")]);
}

#[test]
fn decisions_with_long_reasons_are_told_in_pages() {
    let server = TestServer::new();
    server.run("r1");
    let reason = "x".repeat(60 * 1024);
    let decided = |number: u32| {
        let decision =
            json!({ "policy_type": format!("p{number}"), "decision": "DENIED", "decision_reason": reason });
        server.created("/api/v1/runs/r1/evidence/policy-decision", &decision);
        let limit = json!({
            "event_type": "LimitBreached", "entity_type": "LIMIT", "entity_id": format!("l{number}"),
            "actor_type": "SYSTEM", "action_reason": reason, "after_state": { "run_id": "r1" },
        });
        server.created("/api/v1/audit-events", &limit);
    };
    (0..150).for_each(decided);
    let path = "/api/v1/logs/llm-runs/r1/governance";
    let (mut shown, mut cursor) = (Vec::new(), String::new());
    let mut pages = 0;
    loop {
        let answer = server.get(&format!("{path}{cursor}"));
        assert!(
            answer.body.len() < 20 * 1024 * 1024,
            "twice what a list may hold, and some"
        );
        let page = answer.ok();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let events = page["events"].as_array().unwrap();
        shown.extend(events.iter().map(|event| {
            if event["entity_type"] == "RUN" {
                text(&event["event_type"])
            } else {
                text(&event["entity_id"])
            }
        }));
        pages += 1;
        let Some(next) = page["next_cursor"].as_str() else {
            break;
        };
        cursor = format!("?cursor={next}");
    }
    assert!(pages > 1);
    shown.sort();
    let mut all: Vec<String> = (0..150)
        .flat_map(|number| [format!("l{number}"), format!("p{number}")])
        .collect();
    all.sort();
    assert_eq!(shown, all, "each once");
}

#[test]
fn there_is_no_evidence_without_its_run() {
    let server = TestServer::new();
    let decision = json!({ "policy_type": "budget", "decision": "GRANTED" });
    let answer = server.post("/api/v1/runs/nobody/evidence/policy-decision", &decision);
    assert_eq!(answer.problem(404), "evidence_context_missing");
    let problem = answer.json();
    assert_eq!(
        (&problem["evidence_class"], &problem["run_id"]),
        (&json!("policy_decisions"), &json!("nobody"))
    );
    assert_eq!(server.tree_size(), 0);
    server.run("r1");
    for (field, value) in [
        ("policy_type", json!("")),
        ("decision", json!("ALLOW")),
        ("decision_confidence", json!(1.5)),
        ("policies_evaluated", json!([""])),
        ("policy_results", json!({ "p1": "maybe" })),
        ("policy_results", json!(["pass"])),
        ("thresholds_used", json!(3)),
        ("customer_guardrail_result", json!(true)),
        ("provider_moderation_result", json!([1])),
        ("decision_reason_codes", json!(vec!["x"; 1_001])),
    ] {
        let mut bad = decision.clone();
        bad[field] = value;
        refused(
            &server.post("/api/v1/runs/r1/evidence/policy-decision", &bad),
            field,
        );
    }
}
