//! Contracts, jobs, verdicts and the gate, through HTTP.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};

use crate::server::{Answer, TestServer};
use crate::support::{refused, sha256, ticking_server};

/// A server with contract `c1`, open for years.
pub(crate) fn governed() -> TestServer {
    let server = ticking_server();
    let made = server.created("/api/v1/contracts", &contract("c1"));
    assert_eq!(
        (&made["contract_id"], &made["scope"]),
        (&json!("c1"), &json!(["search", "export"]))
    );
    server
}

pub(crate) fn contract(contract_id: &str) -> Value {
    json!({
        "contract_id": contract_id, "scope": ["search", "export"],
        "proposed_changes": { "capability_name": "search" },
        "activation_window_start": "2020-01-01T00:00:00Z", "activation_window_end": "2040-01-01T00:00:00+02:00",
    })
}

impl TestServer {
    pub(crate) fn job(&self, job_id: &str) -> Value {
        self.created(
            "/api/v1/jobs",
            &json!({ "job_id": job_id, "handler": "deploy", "contract_id": "c1", "payload": { "b": 1, "a": 2 } }),
        )
    }

    pub(crate) fn act(&self, job_id: &str, what: &str, body: &Value) -> Answer {
        self.post(&format!("/api/v1/jobs/{job_id}/{what}"), body)
    }

    #[track_caller]
    pub(crate) fn acted(&self, job_id: &str, what: &str, body: &Value) -> Value {
        let answer = self.act(job_id, what, body);
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()
    }

    pub(crate) fn started(&self, job_id: &str) {
        self.job(job_id);
        self.acted(job_id, "start", &json!({}));
    }

    pub(crate) fn job_step(&self, job_id: &str, index: u32, target: &str) -> Answer {
        let output = json!({ "target": target, "rollback_action": "restore" });
        let body = json!({ "step_index": index, "status": "COMPLETED", "output": output });
        self.act(job_id, "steps", &body)
    }

    pub(crate) fn healthy(&self, job_id: &str) {
        let snapshot = json!({ "search": "HEALTHY" });
        self.acted(
            job_id,
            "health",
            &json!({ "before": snapshot, "after": snapshot }),
        );
    }

    pub(crate) fn rollout(&self, job_id: &str) -> Value {
        self.get(&format!("/api/v1/rollout/{job_id}")).ok()
    }

    pub(crate) fn all_events(&self, job_id: &str) -> Vec<Value> {
        let mut events = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self
                .get(&format!("/api/v1/jobs/{job_id}/events?limit=2{cursor}"))
                .ok();
            events.extend(page["events"].as_array().unwrap().clone());
            let Some(next) = page["next_cursor"].as_str() else {
                assert_eq!(page["total"], events.len());
                return events;
            };
            cursor = format!("&cursor={next}");
        }
    }
}

pub(crate) fn canonical(value: &Value) -> String {
    let value = evidence::canonical::from_serde(value).unwrap();
    String::from_utf8(evidence::canonical::to_vec(&value)).unwrap()
}

#[test]
fn a_job_inside_its_contract_goes_from_queued_to_proceed() {
    let server = governed();
    let made = server.job("j1");
    assert_eq!(
        (&made["stage"], &made["job_status"], &made["attempt_number"]),
        (&json!("queued"), &json!("QUEUED"), &json!(1))
    );
    assert_eq!(made["payload_hash"], sha256(r#"{"a":2,"b":1}"#));
    assert_eq!(made["retry"]["strategy"], "exponential");
    assert!(made["receipt"]["leaf_hash"].is_string());
    assert_eq!(server.rollout("j1")["action"], "wait");
    assert_eq!(server.rollout("j1")["verdict"], "PENDING");
    // No body at all is an empty one.
    let started = server.request(Method::POST, "/api/v1/jobs/j1/start", &[], Body::empty());
    assert_eq!(started.status, 201, "{}", started.text());
    assert_eq!(started.json()["stage"], "starting");
    let stepped = server.job_step("j1", 0, "search").json();
    assert_eq!(
        (&stepped["stage"], &stepped["steps_recorded"]),
        (&json!("running"), &json!(1))
    );
    server.healthy("j1");
    let done = server.acted("j1", "complete", &json!({ "result": { "ok": true } }));
    assert_eq!(
        (&done["stage"], &done["verdict"]),
        (&json!("completed"), &json!("PASS"))
    );
    assert_eq!(done["result_hash"], sha256(r#"{"ok":true}"#));
    assert_eq!(
        done["audit"]["receipt"]["leaf_index"],
        done["receipt"]["leaf_index"].as_u64().unwrap() + 1
    );
    let mut read = server.get("/api/v1/jobs/j1").ok();
    for only in ["receipt", "audit"] {
        read[only] = done[only].clone();
    }
    assert_eq!(read, done);
    let rollout = server.rollout("j1");
    assert_eq!(
        (&rollout["verdict"], &rollout["authorized"], &rollout["action"]),
        (&json!("PASS"), &json!(true), &json!("proceed"))
    );
    let events = server.all_events("j1");
    let mut previous = Value::Null;
    for event in &events {
        assert_eq!(event["previous_event_hash"], previous);
        let mut rest = event.clone();
        previous = rest.as_object_mut().unwrap().remove("integrity_hash").unwrap();
        assert_eq!(previous, sha256(&canonical(&rest)));
    }
    let words: Vec<_> = events
        .iter()
        .map(|event| event["event_type"].as_str().unwrap())
        .collect();
    assert_eq!(
        words,
        [
            "job_created",
            "job_started",
            "job_progress",
            "job_progress",
            "job_completed"
        ]
    );
}

#[test]
fn a_verdict_is_read_with_its_checks_and_its_evidence_is_judged_the_same_again() {
    let server = governed();
    server.started("j1");
    server.job_step("j1", 0, "search");
    server.healthy("j1");
    let done = server.acted("j1", "complete", &json!({}));
    let audit = server.get("/api/v1/audits/j1").ok();
    assert_eq!(audit["audit_id"], done["audit"]["audit_id"]);
    assert_eq!(
        (&audit["contract_id"], &audit["auditor_version"]),
        (&json!("c1"), &json!("1.0.0"))
    );
    assert_eq!(
        audit["evidence_summary"],
        json!({ "steps_executed": 1, "executed_targets": ["search"], "proposed_targets": ["search"] })
    );
    let checks = server.get("/api/v1/audits/j1/checks").ok();
    let ids: Vec<_> = checks["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| check["check_id"].as_str().unwrap())
        .collect();
    assert_eq!(
        ids,
        ["A-001", "A-002", "A-003", "A-004", "A-005", "A-006", "A-007"]
    );
    assert_eq!(checks["checks"], audit["checks"]);
    let evidence = server.get("/api/v1/audits/j1/evidence").ok();
    assert_eq!(evidence["evidence_hash_matches"], true);
    assert_eq!(sha256(&canonical(&evidence["evidence"])), audit["evidence_hash"]);
    let input = evidence::canonical::from_serde(&evidence["evidence"]).unwrap();
    let again = audit::governance::AuditInput::read(&input).unwrap();
    let again = audit::governance::audit(&again, String::new(), crate::server::now(), 0);
    assert_eq!(again.evidence_hash, audit["evidence_hash"]);
    assert_eq!(again.verdict.as_str(), "PASS");
    // The record is the result, and nothing else.
    let id = audit["receipt"]["record_id"].as_str().unwrap();
    let record = server.get(&format!("/api/v1/records/{id}")).ok();
    let mut result = audit.clone();
    for more in ["receipt", "resolution"] {
        result.as_object_mut().unwrap().remove(more);
    }
    assert_eq!(
        (&record["body"], &record["header"]["kind"]),
        (&result, &json!("governance.audit"))
    );
    // Nobody makes a verdict.
    assert_eq!(server.post("/api/v1/audits/j1", &json!({})).status, 405);
    assert_eq!(server.get("/api/v1/audits/nobody").problem(404), "not_found");
}

#[test]
fn a_step_outside_scope_rolls_back_and_opens_an_incident() {
    let server = governed();
    server.started("j1");
    server.job_step("j1", 0, "billing");
    server.healthy("j1");
    let done = server.acted("j1", "complete", &json!({}));
    assert_eq!(done["verdict"], "FAIL");
    let incident_id = done["incident_id"].as_str().unwrap();
    let incident = server.get(&format!("/api/v1/incidents/{incident_id}")).ok();
    assert_eq!(
        (&incident["status"], &incident["policy_id"]),
        (&json!("OPEN"), &json!("c1"))
    );
    let entries = server
        .get("/api/v1/logs/audit?event_type=LimitBreached&entity_type=LIMIT")
        .ok();
    assert_eq!(entries["total"], 1);
    let rollout = server.rollout("j1");
    assert_eq!(
        (&rollout["authorized"], &rollout["action"]),
        (&json!(false), &json!("rollback"))
    );
    let resolved = server.post(
        "/api/v1/audits/j1/resolve",
        &json!({ "decision": "proceed", "actor_id": "ada", "reason": "fine" }),
    );
    assert_eq!(resolved.problem(409), "verdict_final");
    assert_eq!(resolved.json()["verdict"], "FAIL");
}

#[test]
fn a_missing_snapshot_escalates_until_a_named_human_decides() {
    let server = governed();
    server.started("j1");
    server.job_step("j1", 0, "search");
    server.acted("j1", "complete", &json!({}));
    assert_eq!(server.rollout("j1")["action"], "escalate");
    let path = "/api/v1/audits/j1/resolve";
    let decide =
        |decision: &str, actor: &str| json!({ "decision": decision, "actor_id": actor, "reason": "seen" });
    refused(&server.post(path, &decide("maybe", "ada")), "decision");
    for nobody in ["", " ", "\u{200b}"] {
        refused(&server.post(path, &decide("proceed", nobody)), "actor_id");
    }
    let resolved = server.created(path, &decide("proceed", "ada"));
    assert_eq!(resolved["resolution"]["actor_id"], "ada");
    assert_eq!(server.post(path, &decide("proceed", "ada")).status, 200);
    assert_eq!(server.post(path, &decide("stop", "ada")).problem(409), "conflict");
    refused(&server.post(path, &decide("proceed", "")), "actor_id");
    let unsaid = json!({ "decision": "proceed", "actor_id": "ada", "reason": "" });
    refused(&server.post(path, &unsaid), "reason");
    let rollout = server.rollout("j1");
    assert_eq!(
        (&rollout["authorized"], &rollout["verdict"]),
        (&json!(true), &json!("INCONCLUSIVE"))
    );
    assert!(rollout["reason"].as_str().unwrap().contains("ada"));
    let id = resolved["resolution"]["receipt"]["record_id"].as_str().unwrap();
    let header = server.get(&format!("/api/v1/records/{id}")).ok()["header"].clone();
    assert_eq!(header["actor"], json!({ "type": "HUMAN" }));
}

#[test]
fn what_may_not_follow_is_409_and_names_the_stage() {
    let server = governed();
    server.job("j1");
    for (what, body) in [
        ("complete", json!({})),
        ("fail", json!({ "error": "x" })),
        ("progress", json!({ "percentage": 5 })),
        ("steps", json!({ "step_index": 0, "status": "COMPLETED" })),
    ] {
        let answer = server.act("j1", what, &body);
        assert_eq!(answer.problem(409), "job_stage", "{what}");
        assert_eq!(answer.json()["stage"], "queued");
    }
    server.acted("j1", "start", &json!({}));
    server.acted("j1", "complete", &json!({}));
    for (what, body) in [
        ("complete", json!({})),
        ("fail", json!({ "error": "x" })),
        ("cancel", json!({ "reason": "x" })),
        ("start", json!({})),
        ("progress", json!({ "percentage": 5 })),
        ("health", json!({ "after": {} })),
        ("steps", json!({ "step_index": 0, "status": "COMPLETED" })),
    ] {
        let answer = server.act("j1", what, &body);
        assert_eq!(answer.problem(409), "job_stage", "{what}");
        assert_eq!(answer.json()["stage"], "completed");
        assert_eq!(
            server.act("nobody", what, &body).problem(404),
            "not_found",
            "{what}"
        );
    }
}

#[test]
fn bad_input_is_refused_by_its_field() {
    let server = governed();
    let contracts = "/api/v1/contracts";
    let with = |field: &str, value: Value| {
        let mut body = contract("c2");
        body[field] = value;
        body
    };
    refused(
        &server.post(
            contracts,
            &with("activation_window_end", json!("2019-01-01T00:00:00Z")),
        ),
        "activation_window_end",
    );
    refused(
        &server.post(
            contracts,
            &with("activation_window_end", json!("2041-01-01T00:00:00")),
        ),
        "activation_window_end",
    );
    let entries = |count: u32| (0..count).map(|n| json!(format!("c{n}"))).collect::<Value>();
    refused(&server.post(contracts, &with("scope", entries(10_001))), "scope");
    refused(&server.post(contracts, &with("scope", json!([""]))), "scope");
    refused(&server.post(contracts, &with("scope", json!([7]))), "scope[0]");
    refused(
        &server.post(contracts, &with("proposed_changes", json!("all"))),
        "proposed_changes",
    );
    let no_text = json!({ "scope": ["billing"] });
    refused(
        &server.post(contracts, &with("proposed_changes", no_text)),
        "proposed_changes",
    );
    assert_eq!(
        server.created(contracts, &with("scope", entries(10_000)))["scope"]
            .as_array()
            .unwrap()
            .len(),
        10_000
    );
    // A contract is never changed, least of all under a job.
    server.started("j1");
    let mut changed = contract("c1");
    changed["scope"] = json!(["search", "export", "billing"]);
    assert_eq!(server.post(contracts, &changed).problem(409), "conflict");
    let again = server.post(contracts, &contract("c1")).ok();
    let read = server.get(&format!("{contracts}/c1")).ok();
    assert!(again["created_at"].is_string(), "{again}");
    assert_eq!(again["created_at"], read["created_at"], "the first record's");

    let jobs = "/api/v1/jobs";
    for (body, field) in [
        (json!({ "handler": "x", "contract_id": "nobody" }), "contract_id"),
        (json!({ "handler": "" }), "handler"),
        (json!({ "handler": "x", "job_id": "a\nb" }), "job_id"),
        (json!({ "handler": "x", "total_steps": -1 }), "total_steps"),
        (
            json!({ "handler": "x", "retry": { "strategy": "never" } }),
            "retry",
        ),
        (
            json!({ "handler": "x", "retry": { "max_retries": 1.5 } }),
            "retry",
        ),
        (
            json!({ "handler": "x", "retry": { "base_delay_seconds": -1 } }),
            "retry",
        ),
    ] {
        refused(&server.post(jobs, &body), field);
    }
    let other = json!({ "job_id": "j1", "handler": "other", "contract_id": "c1" });
    assert_eq!(server.post(jobs, &other).problem(409), "conflict");
    for (what, body, field) in [
        ("health", json!({ "before": ["search"] }), "before"),
        ("health", json!({ "before": {}, "after": "HEALTHY" }), "after"),
        ("health", json!({ "after": 7 }), "after"),
        (
            "health",
            json!({ "after": { "capability_health": [], "billing": "HEALTHY" } }),
            "after",
        ),
        ("health", json!({}), "before"),
        ("progress", json!({ "stage": "completed" }), "stage"),
        ("progress", json!({ "current_step": -1 }), "current_step"),
        ("progress", json!({ "metadata": [] }), "metadata"),
        ("steps", json!({ "step_index": 0, "status": "DONE" }), "status"),
        (
            "steps",
            json!({ "step_index": 0, "status": "FAILED", "output": "x" }),
            "output",
        ),
        ("cancel", json!({ "reason": "" }), "reason"),
        ("cancel", json!({ "reason": " " }), "reason"),
    ] {
        refused(&server.act("j1", what, &body), field);
    }
    refused(
        &server.post(
            "/api/v1/signals",
            &json!({ "signal_type": "x", "scope": "y", "decision": "perhaps" }),
        ),
        "decision",
    );
    // Nothing of all this did anything to the job.
    assert_eq!(server.all_events("j1").len(), 2);
}

#[test]
fn a_step_twice_is_the_first_one_and_another_under_its_index_a_conflict() {
    let server = governed();
    server.started("j1");
    let first = server.job_step("j1", 0, "search");
    let again = server.job_step("j1", 0, "search");
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (201, 200));
    assert_eq!(
        first.json()["receipt"]["leaf_index"],
        again.json()["receipt"]["leaf_index"]
    );
    assert_eq!(server.job_step("j1", 0, "export").problem(409), "conflict");
}

#[test]
fn a_job_that_has_ended_tells_its_verdict_to_who_makes_it_again() {
    let server = governed();
    let made = server.job("j1");
    server.acted("j1", "start", &json!({}));
    server.job_step("j1", 0, "search");
    server.healthy("j1");
    assert_eq!(server.acted("j1", "complete", &json!({}))["verdict"], "PASS");
    let body =
        json!({ "job_id": "j1", "handler": "deploy", "contract_id": "c1", "payload": { "b": 1, "a": 2 } });
    let again = server.post("/api/v1/jobs", &body);
    assert_eq!(again.status, 200);
    let again = again.json();
    assert_eq!(
        (&again["verdict"], &again["stage"], &again["receipt"]),
        (&json!("PASS"), &json!("completed"), &made["receipt"])
    );
    // That of the call that ended it.
    assert_eq!(again.get("audit"), None);
}

/// The verdict, and what a human decides, have the job's facet too.
#[test]
fn the_last_page_of_a_jobs_events_is_the_one_with_the_last_event() {
    let server = governed();
    server.started("j1");
    server.job_step("j1", 0, "search");
    server.acted("j1", "complete", &json!({}));
    let decided = json!({ "decision": "stop", "actor_id": "ada", "reason": "seen" });
    server.created("/api/v1/audits/j1/resolve", &decided);
    for (limit, more) in [(3, true), (4, false), (5, false)] {
        let page = server.get(&format!("/api/v1/jobs/j1/events?limit={limit}")).ok();
        assert_eq!(
            (&page["has_more"], &page["total"]),
            (&json!(more), &json!(4)),
            "{limit}"
        );
        assert_eq!(page["next_cursor"].is_string(), more, "{limit}");
    }
    assert_eq!(server.all_events("j1").len(), 4);
}

/// Nobody signs the lists that records are found in.
#[test]
fn another_jobs_event_is_no_event_of_a_job() {
    let server = governed();
    server.job("j1");
    server.job("j2");
    let server = server.reopen_after(|folder| {
        let connection = rusqlite::Connection::open(folder.join("deponent.db")).unwrap();
        let change = "UPDATE facets SET facet = 'job=j1' WHERE facet = 'job=j2'";
        assert!(connection.execute(change, []).unwrap() > 0);
    });
    assert_eq!(server.get("/api/v1/jobs/j1/events").problem(500), "damaged");
}

#[test]
fn of_many_who_complete_a_job_at_once_one_does() {
    let server = governed();
    server.started("j1");
    let mut statuses = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| server.act("j1", "complete", &json!({})).status.as_u16()))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect::<Vec<_>>()
    });
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409, 409, 409, 409, 409, 409]);
}
