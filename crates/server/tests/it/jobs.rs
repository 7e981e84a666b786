//! Contracts, jobs, signals, verdicts and the gate, through HTTP.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};

use crate::access::Keyed;
use crate::server::{Answer, TestServer};
use crate::support::{pages, refused, sha256, ticking_server};

/// A server with contract `c1`, open for years.
fn governed() -> TestServer {
    let server = ticking_server();
    let made = server.created("/api/v1/contracts", &contract("c1"));
    assert_eq!(
        (&made["contract_id"], &made["scope"]),
        (&json!("c1"), &json!(["search", "export"]))
    );
    server
}

fn contract(contract_id: &str) -> Value {
    json!({
        "contract_id": contract_id, "scope": ["search", "export"],
        "proposed_changes": { "capability_name": "search" },
        "activation_window_start": "2020-01-01T00:00:00Z", "activation_window_end": "2040-01-01T00:00:00+02:00",
    })
}

impl TestServer {
    fn job(&self, job_id: &str) -> Value {
        self.created(
            "/api/v1/jobs",
            &json!({ "job_id": job_id, "handler": "deploy", "contract_id": "c1", "payload": { "b": 1, "a": 2 } }),
        )
    }

    fn act(&self, job_id: &str, what: &str, body: &Value) -> Answer {
        self.post(&format!("/api/v1/jobs/{job_id}/{what}"), body)
    }

    #[track_caller]
    fn acted(&self, job_id: &str, what: &str, body: &Value) -> Value {
        let answer = self.act(job_id, what, body);
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()
    }

    fn started(&self, job_id: &str) {
        self.job(job_id);
        self.acted(job_id, "start", &json!({}));
    }

    fn job_step(&self, job_id: &str, index: u32, target: &str) -> Answer {
        let output = json!({ "target": target, "rollback_action": "restore" });
        let body = json!({ "step_index": index, "status": "COMPLETED", "output": output });
        self.act(job_id, "steps", &body)
    }

    fn healthy(&self, job_id: &str) {
        let snapshot = json!({ "search": "HEALTHY" });
        self.acted(
            job_id,
            "health",
            &json!({ "before": snapshot, "after": snapshot }),
        );
    }

    fn rollout(&self, job_id: &str) -> Value {
        self.get(&format!("/api/v1/rollout/{job_id}")).ok()
    }

    fn all_events(&self, job_id: &str) -> Vec<Value> {
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

fn canonical(value: &Value) -> String {
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
    refused(&server.post(path, &decide("proceed", "")), "actor_id");
    let resolved = server.created(path, &decide("proceed", "ada"));
    assert_eq!(resolved["resolution"]["actor_id"], "ada");
    assert_eq!(server.post(path, &decide("proceed", "ada")).status, 200);
    assert_eq!(server.post(path, &decide("stop", "ada")).problem(409), "conflict");
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
    assert_eq!(server.post(contracts, &contract("c1")).status, 200);

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
fn a_failed_attempt_waits_and_its_history_is_kept() {
    let server = governed();
    server.created(
        "/api/v1/jobs",
        &json!({ "job_id": "j1", "handler": "x", "contract_id": "c1",
            "retry": { "strategy": "fixed", "base_delay_seconds": 30, "max_retries": 2, "jitter_factor": 0 } }),
    );
    server.acted("j1", "start", &json!({}));
    let failed = server.acted("j1", "fail", &json!({ "error": "timeout" }));
    assert_eq!(
        (&failed["stage"], &failed["attempt_number"], &failed["verdict"]),
        (&json!("queued"), &json!(2), &Value::Null)
    );
    assert!(failed["next_attempt_at"].is_string());
    server.acted("j1", "start", &json!({}));
    let ended = server.acted("j1", "fail", &json!({ "error": "timeout" }));
    assert_eq!(
        (&ended["stage"], ended["verdict"].is_string()),
        (&json!("failed"), true)
    );
    let retries = server.get("/api/v1/jobs/j1/retries").ok();
    let history: Vec<_> = retries["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            (
                it["attempt_number"].clone(),
                it["delay_seconds"].clone(),
                it["will_retry"].clone(),
            )
        })
        .collect();
    assert_eq!(
        history,
        [
            (json!(1), json!(30), json!(true)),
            (json!(2), json!(30), json!(false))
        ]
    );
    assert_eq!(retries["history"][1]["next_attempt_at"], Value::Null);
    let audit = server.get("/api/v1/audits/j1").ok();
    let of = |id: &str| {
        let checks = audit["checks"].as_array().unwrap();
        checks.iter().find(|check| check["check_id"] == id).unwrap()["result"].clone()
    };
    // A job that failed proves nothing about what it proposed, and signals do not decide it.
    assert_eq!((of("A-003"), of("A-006")), (json!("PASS"), json!("INCONCLUSIVE")));
}

#[test]
fn progress_is_computed_from_steps_and_never_goes_back() {
    let server = ticking_server();
    server.created(
        "/api/v1/jobs",
        &json!({ "job_id": "j1", "handler": "x", "total_steps": 4 }),
    );
    let path = "/api/v1/jobs/j1/progress";
    let queued = server.get(path).ok();
    assert_eq!(
        (&queued["stage"], &queued["percentage"]),
        (&json!("queued"), &json!(0))
    );
    assert_eq!(queued["started_at"], Value::Null);
    server.acted("j1", "start", &json!({}));
    let half = server.acted(
        "j1",
        "progress",
        &json!({ "percentage": 90, "current_step": 2, "metadata": { "a": 1 } }),
    );
    assert_eq!(
        (&half["stage"], &half["percentage"]),
        (&json!("running"), &json!(50))
    );
    assert!(half["eta_seconds"].is_u64());
    let back = server.acted(
        "j1",
        "progress",
        &json!({ "percentage": 10, "message": "m", "metadata": { "b": 2 } }),
    );
    assert_eq!((&back["percentage"], &back["message"]), (&json!(50), &json!("m")));
    assert_eq!(back["metadata"], json!({ "a": 1, "b": 2 }));
    let mut read = server.get(path).ok();
    read["receipt"] = back["receipt"].clone();
    assert_eq!(read, back);
    let done = server.acted("j1", "complete", &json!({}));
    assert_eq!(
        (&done["progress"]["percentage"], &done["progress"]["eta_seconds"]),
        (&json!(100), &json!(0))
    );
    assert_eq!(server.rollout("j1")["action"], "escalate");
    assert_eq!(server.rollout("j1")["verdict"], Value::Null);
    assert_eq!(
        server.get("/api/v1/jobs/nobody/progress").problem(404),
        "not_found"
    );
}

#[test]
fn progress_comes_as_events_when_asked_for_and_ends_with_the_job() {
    let server = governed();
    server.started("j1");
    let watcher = std::thread::scope(|scope| {
        let (began, begun) = std::sync::mpsc::channel();
        let router = server.router.clone();
        let runtime = &server.runtime;
        let watcher = scope.spawn(move || {
            use http_body_util::BodyExt;
            use tower::ServiceExt;
            runtime.block_on(async {
                let request = axum::http::Request::get("/api/v1/jobs/j1/progress")
                    .header("host", "localhost")
                    .header("accept", "text/event-stream")
                    .body(Body::empty())
                    .unwrap();
                let response = router.oneshot(request).await.unwrap();
                assert_eq!(response.headers()["content-type"], "text/event-stream");
                let mut body = response.into_body();
                let mut text = String::new();
                while let Some(frame) = body.frame().await {
                    text.push_str(&String::from_utf8_lossy(&frame.unwrap().into_data().unwrap()));
                    let _ = began.send(());
                }
                text
            })
        });
        begun.recv().unwrap();
        server.acted("j1", "progress", &json!({ "percentage": 40 }));
        server.acted("j1", "complete", &json!({}));
        watcher.join().unwrap()
    });
    let stages: Vec<Value> = watcher
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str::<Value>(data).unwrap()["stage"].clone())
        .collect();
    assert_eq!(stages.first(), Some(&json!("starting")));
    assert_eq!(stages.last(), Some(&json!("completed")));
    assert!(watcher.contains("event: progress\n"));
}

#[test]
fn signals_are_recorded_listed_and_decide() {
    let server = governed();
    server.started("j1");
    server.job_step("j1", 0, "search");
    server.healthy("j1");
    let signal = |scope: &str, decision: &str| json!({ "signal_type": "freeze", "scope": scope, "decision": decision });
    let first = server.created("/api/v1/signals", &signal("search", "block"));
    server.created("/api/v1/signals", &signal("export", "allow"));
    let id = first["signal_id"].as_str().unwrap();
    let read = server.get(&format!("/api/v1/signals/{id}")).ok();
    assert_eq!(
        (&read["decision"], &read["scope"]),
        (&json!("block"), &json!("search"))
    );
    assert_eq!(
        pages(&server, "/api/v1/signals", 1, "scope"),
        ["export", "search"]
    );
    assert_eq!(
        pages(&server, "/api/v1/signals?scope=search", 5, "signal_id"),
        [id]
    );
    assert_eq!(
        pages(
            &server,
            "/api/v1/signals?signal_type=freeze&scope=export",
            5,
            "scope"
        ),
        ["export"]
    );
    assert_eq!(server.acted("j1", "complete", &json!({}))["verdict"], "FAIL");
    assert_eq!(server.get("/api/v1/signals/nobody").problem(404), "not_found");
}

#[test]
fn jobs_and_contracts_are_listed_newest_first_as_they_were() {
    let server = governed();
    for n in 0..5 {
        server.job(&format!("j{n}"));
    }
    server.created("/api/v1/jobs", &json!({ "job_id": "free", "handler": "sweep" }));
    let before = server.tree_size();
    server.acted("j1", "start", &json!({}));
    server.acted("j1", "complete", &json!({}));
    assert_eq!(
        pages(&server, "/api/v1/jobs", 2, "job_id"),
        ["free", "j4", "j3", "j2", "j1", "j0"]
    );
    assert_eq!(
        pages(&server, "/api/v1/jobs?handler=sweep", 2, "job_id"),
        ["free"]
    );
    assert_eq!(
        pages(
            &server,
            "/api/v1/jobs?contract_id=c1&handler=deploy",
            50,
            "job_id"
        )
        .len(),
        5
    );
    let stage = |query: &str| {
        let page = server.get(&format!("/api/v1/jobs?{query}")).ok();
        let items = page["items"].as_array().unwrap().clone();
        let job = items.iter().find(|item| item["job_id"] == "j1").unwrap();
        (job["stage"].clone(), job["verdict"].clone())
    };
    assert_eq!(stage("limit=50"), (json!("completed"), json!("FAIL")));
    assert_eq!(stage(&format!("as_of={before}")), (json!("queued"), Value::Null));
    server.created("/api/v1/contracts", &contract("c2"));
    assert_eq!(
        pages(&server, "/api/v1/contracts", 1, "contract_id"),
        ["c2", "c1"]
    );
    let read = server.get("/api/v1/contracts/c1").ok();
    assert_eq!(read["activation_window_end"], "2039-12-31T22:00:00.000000Z");
    assert_eq!(server.get("/api/v1/contracts/nobody").problem(404), "not_found");
    assert_eq!(
        server.get("/api/v1/jobs?colour=red").problem(400),
        "bad_parameter"
    );
    assert_eq!(
        server.get("/api/v1/jobs/j1/events?cursor=x").problem(400),
        "bad_cursor"
    );
    assert_eq!(server.get("/api/v1/jobs/nobody/events").problem(404), "not_found");
}

#[test]
fn a_panel_is_checked_and_what_cannot_be_evaluated_is_no_pass() {
    let server = ticking_server();
    let check = |body: &Value| server.post("/api/v1/panels/check", body);
    let slots = |signals: Value| json!([{ "slot_id": "s1", "signals": signals }]);
    let good = check(&json!({ "panel_id": "p", "slots": slots(json!({ "active_incidents": 0 })) })).ok();
    assert_eq!(
        (&good["is_consistent"], &good["panel_id"]),
        (&json!(true), &json!("p"))
    );
    let bad = check(
        &json!({ "panel_id": "p", "slots": slots(json!({ "active_incidents": 1, "attention_required": false })) }),
    )
    .ok();
    assert_eq!(bad["violations"][0]["rule_id"], "CONS-001");
    let rule = |condition: &str| {
        json!({ "panel_id": "p", "slots": slots(json!({ "a": 1, "b": 2 })),
            "rules": [{ "id": "R1", "name": "r", "signal_a": "a", "signal_b": "b", "condition": condition }] })
    };
    assert_eq!(check(&rule("signal_a < signal_b")).ok()["is_consistent"], true);
    for condition in [
        "signal_a <",
        "nobody > 1",
        "[1, 2].all(x, x > 0)",
        "",
        "signal_a + 'x' == 'y'",
    ] {
        assert_eq!(check(&rule(condition)).problem(422), "invalid", "{condition}");
    }
    assert_eq!(check(&json!([])).problem(422), "invalid");
    assert_eq!(check(&json!({ "slots": 7 })).problem(422), "invalid");
}

#[test]
fn jobs_of_another_tenant_are_nobodys_and_only_an_admin_resolves() {
    let keyed = Keyed::new();
    let post = |who: &str, path: &str, body: &Value| keyed.as_(who, Method::POST, path, body);
    assert_eq!(post("writer", "/api/v1/contracts", &contract("c1")).status, 201);
    let new = json!({ "job_id": "j1", "handler": "x", "contract_id": "c1" });
    assert_eq!(post("writer", "/api/v1/jobs", &new).status, 201);
    assert_eq!(post("writer", "/api/v1/jobs/j1/start", &json!({})).status, 201);
    let step = json!({ "step_index": 0, "status": "COMPLETED", "output": { "target": "search" } });
    assert_eq!(post("writer", "/api/v1/jobs/j1/steps", &step).status, 201);
    assert_eq!(post("writer", "/api/v1/jobs/j1/complete", &json!({})).status, 201);
    for path in [
        "/api/v1/jobs/j1",
        "/api/v1/jobs/j1/events",
        "/api/v1/jobs/j1/progress",
        "/api/v1/audits/j1",
        "/api/v1/audits/j1/evidence",
        "/api/v1/rollout/j1",
        "/api/v1/contracts/c1",
    ] {
        assert_eq!(keyed.get_as("reader", path).status, 200, "{path}");
        assert_eq!(keyed.get_as("foreign", path).problem(404), "not_found", "{path}");
        assert_eq!(keyed.get_as("writer", path).problem(403), "forbidden", "{path}");
    }
    assert_eq!(
        post("foreign", "/api/v1/jobs/j1/cancel", &json!({ "reason": "x" })).problem(404),
        "not_found"
    );
    let decide = json!({ "decision": "proceed", "actor_id": "ada", "reason": "seen" });
    assert_eq!(
        post("writer", "/api/v1/audits/j1/resolve", &decide).problem(403),
        "forbidden"
    );
    assert_eq!(post("admin", "/api/v1/audits/j1/resolve", &decide).status, 201);
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

#[test]
fn every_read_that_lists_is_on_record_with_its_number_of_rows() {
    let server = governed();
    server.started("j1");
    server.job_step("j1", 0, "search");
    server.job_step("j1", 1, "export");
    server.acted("j1", "complete", &json!({}));
    server.run("r");
    server.step("r", 0, "success");
    server.step("r", 1, "failure");
    let ended = server.complete("r");
    server.run("other");
    for model in ["m-1", "m-2"] {
        let log = json!({ "input": { "q": 1 }, "output": { "a": model }, "model_version": model });
        server.created("/api/v1/provenance", &log);
    }
    let mut answers = std::collections::BTreeMap::new();
    for (operation, template) in ::server::operations_that_list() {
        let path = template
            .replace("{run_id}", "r")
            .replace("{job_id}", "j1")
            .replace("{hash}", ended["root_hash"].as_str().unwrap());
        let path = match operation {
            "job_events" | "job_retries" => path.replace("{id}", "j1"),
            "trace_diff" => format!("{path}?left=r&right=other"),
            "policy_activations_list" => format!("{path}?policy_id=p"),
            _ => path.replace("{id}", "r"),
        };
        // Those that take no run need one all the same.
        let answer = server.get(&path);
        assert_eq!(answer.status, 200, "{operation} {path}: {}", answer.text());
        answers.insert(operation, answer.json());
    }
    assert!(answers.len() > 25, "{} operations", answers.len());
    server.runtime.block_on(server.app.flush_access()).unwrap();
    let page = server.get("/api/v1/records?kind=access.event&limit=200").ok();
    let mut compared = 0;
    for (operation, answer) in &answers {
        let noted = page["items"].as_array().unwrap().iter().map(|item| &item["body"]);
        let noted = noted.rev().find(|body| body["operation"] == *operation).unwrap();
        let lists = [
            "items",
            "events",
            "decisions",
            "exports",
            "steps",
            "checks",
            "attempts",
            "history",
            "points",
        ];
        let Some(list) = lists.iter().find_map(|name| answer[name].as_array()) else {
            continue;
        };
        let rows = if *operation == "provenance_drift" {
            2
        } else {
            list.len()
        };
        assert_eq!(noted["row_count"], rows, "{operation}: {answer}");
        compared += 1;
    }
    assert!(compared > 20, "{compared} compared");
}
