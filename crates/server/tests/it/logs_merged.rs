//! Audit events among what a run's reads merge, and what entries of a list share.

use serde_json::{Value, json};

use crate::server::TestServer;
use crate::support::{assert_checksum, ticking_server};

const RUNS: &str = "/api/v1/logs/llm-runs";

fn read(server: &TestServer, path: &str) -> Value {
    let answer = server.get(path).ok();
    assert_checksum(&answer);
    answer
}

/// An audit event that names a run and a policy.
fn breached(server: &TestServer, run_id: &str, policy_id: &str) -> Value {
    let body = json!({ "event_type": "LimitBreached", "entity_type": "LIMIT", "entity_id": "l-1",
        "actor_type": "SYSTEM", "after_state": { "run_id": run_id, "policy_id": policy_id } });
    server.created("/api/v1/audit-events", &body)
}

fn column(answer: &Value, list: &str, field: &str) -> Vec<Value> {
    let events = answer[list].as_array().unwrap();
    events.iter().map(|event| event[field].clone()).collect()
}

#[test]
fn a_limit_breached_at_the_failure_is_in_the_replay_around_it() {
    let server = TestServer::new();
    server.run("r");
    server.run("other");
    server.step("r", 0, "failure");
    breached(&server, "r", "p-1");
    breached(&server, "other", "p-1");
    let decision = json!({ "policy_type": "budget", "decision": "DENIED" });
    server.created("/api/v1/runs/r/evidence/policy-decision", &decision);
    let replay = read(&server, &format!("{RUNS}/r/replay?around=failure"));
    assert_eq!(column(&replay, "events", "source"), ["llm", "policy", "policy"]);
    assert_eq!(
        column(&replay, "events", "action"),
        ["search", "budget", "LimitBreached"]
    );
    assert_eq!(
        column(&replay, "events", "outcome"),
        ["failure", "DENIED", "BREACHED"]
    );
    assert_eq!(replay["policy_complete"], true);
    // An hour later it is no longer of that minute.
    let server = ticking_server();
    let long_ago = json!({ "run_id": "r", "started_at": "2026-01-01T00:00:00Z" });
    server.created("/api/v1/runs", &long_ago);
    breached(&server, "r", "p-1");
    let replay = read(&server, &format!("{RUNS}/r/replay"));
    assert_eq!(replay["events"], json!([]));
}

#[test]
fn audit_events_stand_on_the_page_of_governance_among_whose_records_they_were_recorded() {
    let server = TestServer::new();
    let run = "03".repeat(16);
    let steps = |first: u16, count: u16| {
        let spans: Vec<Value> = (first..first + count)
            .map(|number| crate::server::span(3, number))
            .collect();
        server.spans(&spans);
    };
    steps(1, 100);
    breached(&server, &run, "early");
    for chunk in 0..4 {
        steps(101 + chunk * 2_500, 2_500);
    }
    breached(&server, &run, "late");
    let first = read(&server, &format!("{RUNS}/{run}/governance"));
    assert_eq!(
        (&first["has_more"], column(&first, "events", "policy_id")),
        (&json!(true), vec![json!("early")])
    );
    breached(&server, &run, "after the first page");
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = read(&server, &format!("{RUNS}/{run}/governance?cursor={cursor}"));
    assert_eq!(
        (&second["has_more"], column(&second, "events", "policy_id")),
        (&json!(false), vec![json!("late")])
    );
}

#[test]
fn metadata_names_the_ids_that_all_entries_share_and_no_others() {
    let server = TestServer::new();
    server.run("r");
    breached(&server, "r", "p-1");
    let governance = read(&server, &format!("{RUNS}/r/governance"));
    assert_eq!(governance["metadata"]["policy_ids"], json!(["p-1"]));
    breached(&server, "r", "p-2");
    let governance = read(&server, &format!("{RUNS}/r/governance"));
    assert_eq!(governance["metadata"]["policy_ids"], json!([]));

    let audit = read(&server, "/api/v1/logs/audit");
    assert_eq!(
        (&audit["metadata"]["run_id"], &audit["metadata"]["policy_ids"]),
        (&json!("r"), &json!([]))
    );
    let opened = server.created(
        "/api/v1/incidents",
        &json!({ "source_run_id": "r", "severity": "HIGH", "summary": "x" }),
    );
    let incident = opened["incident_id"]
        .as_str()
        .or(opened["id"].as_str())
        .unwrap()
        .to_owned();
    let by = json!({ "actor_type": "HUMAN", "actor_id": "ann", "reason": "seen" });
    server.post(&format!("/api/v1/incidents/{incident}/acknowledge"), &by);
    let incidents = read(&server, "/api/v1/logs/audit?entity_type=INCIDENT");
    assert_eq!(incidents["metadata"]["incident_ids"], json!([incident]));
    let all = read(&server, "/api/v1/logs/audit");
    assert_eq!(all["metadata"]["incident_ids"], json!([]), "of a mixed list none");
    // Who a person is stands in the body alone.
    let hers = read(&server, "/api/v1/logs/audit?actor_type=HUMAN");
    assert_eq!(hers["metadata"]["human_actor_id"], "ann");
    assert_eq!(hers["metadata"]["system_id"], Value::Null);
    assert_eq!(all["metadata"]["human_actor_id"], Value::Null);

    let decisions = read(&server, "/api/v1/logs/audit/authorization?limit=1");
    let first = &decisions["decisions"][0]["policy_ids"];
    assert!(first.as_array().is_some_and(|ids| !ids.is_empty()));
    assert_eq!(&decisions["metadata"]["policy_ids"], first);
}
