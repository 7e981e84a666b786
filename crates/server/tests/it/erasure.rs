//! Erasing and holding through HTTP, and how reads show what is erased.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request};
use ledger::EraseTurn;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tower::ServiceExt;

use crate::access::Keyed;
use crate::server::{Answer, TestServer, span};
use crate::support::{refused, sha256};

pub(crate) fn record_id(answer: &Value) -> String {
    answer["receipt"]["record_id"].as_str().unwrap().to_owned()
}

pub(crate) fn erase(server: &TestServer, id: &str, body: &Value) -> Answer {
    server.request(
        Method::DELETE,
        &format!("/api/v1/records/{id}/body"),
        &[("content-type", "application/json")],
        Body::from(body.to_string()),
    )
}

pub(crate) fn because() -> Value {
    json!({ "reason": "asked for by the person" })
}

#[test]
fn a_step_is_erased_with_what_holds_an_unsalted_hash_of_it() {
    let server = TestServer::new();
    server.run("r");
    let prompt = "does the patient smoke?";
    let step = server.created(
        "/api/v1/runs/r/steps",
        &json!({ "step_index": 0, "skill_name": "ask", "status": "success", "params": { "prompt": prompt },
            "outcome_data": { "answer": "yes" } }),
    );
    let activity = json!({ "step_index": 0, "skill_id": "llm", "model_name": "m", "prompt_fingerprint": sha256(prompt),
        "prompt_token_length": 5, "response_fingerprint": sha256("yes"), "response_token_length": 1 });
    let activity_path = "/api/v1/runs/r/evidence/activity";
    let posted = server.created(activity_path, &activity);
    let log = json!({ "run_id": "r", "input": { "prompt": prompt }, "output": { "answer": "yes" } });
    let log = server.created("/api/v1/provenance", &log);
    let other = json!({ "run_id": "r", "input": { "prompt": "another" }, "output": { "answer": "other" } });
    let other = server.created("/api/v1/provenance", &other);
    let twin = json!({ "input": { "prompt": prompt }, "output": { "answer": "no" } });
    let twin = server.created("/api/v1/provenance", &twin);
    let end = server.complete("r");
    let id = record_id(&step);
    // Null is absent, as everywhere.
    let because_of_it = json!({ "reason": because()["reason"], "only": null });
    let answer = erase(&server, &id, &because_of_it).ok();
    let kinds: Vec<&str> = answer["erased"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "trace.step",
            "evidence.activity",
            "provenance.log",
            "trace.completed"
        ]
    );
    assert_eq!(
        (&answer["only"], &answer["scrubbed"]),
        (&json!(false), &json!("rewritten"))
    );
    let named: Vec<&Value> = answer["remains"].as_array().unwrap().iter().collect();
    assert!(
        named
            .iter()
            .any(|left| left["record_id"] == json!(record_id(&twin)))
    );
    assert!(
        named
            .iter()
            .all(|left| left["record_id"] != json!(record_id(&other)))
    );
    assert!(
        named
            .iter()
            .any(|left| left["what"].as_str().unwrap().contains("backups"))
    );
    // What is gone is shown as gone, and by whom.
    let shown = server.get(&format!("/api/v1/records/{id}")).ok();
    assert_eq!((&shown["erased"], &shown["body"]), (&json!(true), &Value::Null));
    assert_eq!(shown["erasure"]["record_id"], answer["receipt"]["record_id"]);
    assert_eq!(
        (&shown["erasure"]["principal"], &shown["erasure"]["reason"]),
        (&json!("local"), &because()["reason"])
    );
    assert_eq!(server.get(&format!("/api/v1/records/{id}/proof")).status, 200);
    // A second time it is not there to be erased; the same sent again is the first receipt.
    assert_eq!(erase(&server, &id, &because()).problem(409), "already_erased");
    let again = server.post(activity_path, &activity);
    assert_eq!(
        (again.status.as_u16(), &again.json()["receipt"]),
        (200, &posted["receipt"])
    );
    let again = server.post("/api/v1/runs/r/complete", &json!({ "status": "completed" }));
    assert_eq!(
        (again.status.as_u16(), &again.json()["receipt"]),
        (200, &end["receipt"])
    );
    // Reads go on.
    for path in [
        "/api/v1/traces/r",
        "/api/v1/logs/llm-runs",
        "/api/v1/logs/llm-runs/r/envelope",
        "/api/v1/logs/llm-runs/r/trace",
        "/api/v1/logs/llm-runs/r/governance",
        "/api/v1/logs/llm-runs/r/replay",
        "/api/v1/logs/llm-runs/r/export",
        "/api/v1/runs/r/integrity",
        "/api/v1/provenance",
        "/api/v1/provenance/drift",
        "/api/v1/records?run_id=r",
        "/api/v1/traces",
    ] {
        let answer = server.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let text = answer.text();
        assert!(!text.contains(&sha256("yes")), "{path}");
        assert!(path.contains("provenance") || !text.contains(prompt), "{path}");
    }
    let gone = server.get(&format!("/api/v1/records/{}", record_id(&log))).ok();
    assert_eq!(gone["erased"], true);
    assert_eq!(server.get("/api/v1/traces/r").ok()["root_hash"], Value::Null);
}

#[test]
fn records_of_every_topic_are_listed_as_erased_and_nothing_fails() {
    let server = TestServer::new();
    server.run("r");
    let system = json!({ "component": "c", "event_type": "HEALTH", "severity": "ERROR", "summary": "secret words",
        "correlation_id": "r" });
    let event = json!({ "event_type": "LimitCreated", "entity_type": "LIMIT", "entity_id": "l", "actor_type": "HUMAN",
        "actor_id": "jane", "after_state": { "max": 1, "run_id": "r" } });
    let ids = [
        server.created("/api/v1/system-records", &system),
        server.created("/api/v1/audit-events", &event),
        server.created(
            "/api/v1/incidents",
            &json!({ "severity": "HIGH", "summary": "secret words", "source_run_id": "r" }),
        ),
        server.created(
            "/api/v1/runs/r/evidence/environment",
            &json!({ "sdk_mode": "inline", "environment": "prod" }),
        ),
        server.created(
            "/api/v1/runs/r/evidence/policy-decision",
            &json!({ "policy_type": "budget", "decision": "GRANTED" }),
        ),
    ];
    // Verdicts stand on them.
    let signal = server.created(
        "/api/v1/signals",
        &json!({ "signal_type": "freeze", "scope": "search", "decision": "allow" }),
    );
    // The newest is the one in force.
    let activation = server.created(
        "/api/v1/policy-activations",
        &json!({ "policy_id": "p", "source_pattern_id": "x", "source_recovery_id": "y", "confidence": 0.5,
            "approval_path": "auto", "loop_trace_id": "t" }),
    );
    for judged_by in [&signal, &activation] {
        let kept = erase(&server, &record_id(judged_by), &because());
        assert_eq!(kept.problem(409), "not_erasable");
    }
    let total = server.get("/api/v1/logs/system").ok()["total"].clone();
    for answer in &ids {
        erase(&server, &record_id(answer), &because()).ok();
    }
    assert_eq!(server.get("/api/v1/logs/system").ok()["total"], total);
    assert_eq!(server.get("/api/v1/logs/system?severity=ERROR").ok()["total"], 0);
    assert_eq!(
        server.get("/api/v1/logs/audit?entity_type=LIMIT").ok()["total"],
        0
    );
    for path in [
        "/api/v1/logs/system",
        "/api/v1/logs/system/r/snapshot",
        "/api/v1/logs/system/r/events",
        "/api/v1/logs/system/r/replay",
        "/api/v1/logs/system/r/telemetry",
        "/api/v1/logs/system/audit",
        "/api/v1/logs/audit",
        "/api/v1/logs/audit/identity",
        "/api/v1/logs/audit/access",
        "/api/v1/logs/audit/authorization",
        "/api/v1/logs/audit/integrity",
        "/api/v1/logs/llm-runs/r/governance",
        "/api/v1/logs/llm-runs/r/replay",
        "/api/v1/policy-activations",
        "/api/v1/policy-activations?policy_id=p",
        "/api/v1/incidents",
        "/api/v1/signals",
        "/api/v1/runs/r/integrity",
    ] {
        let answer = server.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert!(!answer.text().contains("secret words"), "{path}");
        assert!(!answer.text().contains("jane"), "{path}");
    }
    let entry = server.get(&format!("/api/v1/logs/audit/entries/{}", record_id(&ids[1])));
    assert_eq!(entry.status, 200, "{}", entry.text());
    assert!(!entry.text().contains("jane"));
}

#[test]
fn what_is_held_or_not_there_is_not_erased() {
    let server = TestServer::new();
    let run = server.run("r");
    let id = record_id(&run);
    refused(&erase(&server, &id, &json!({ "reason": "" })), "reason");
    assert_eq!(erase(&server, &id, &json!({})).problem(422), "invalid");
    assert_eq!(
        erase(&server, &id, &json!({ "reason": "x", "why": 1 })).problem(422),
        "invalid"
    );
    for nobody in ["nosuch", "01900000-0000-7000-8000-000000000000"] {
        assert_eq!(erase(&server, nobody, &because()).problem(404), "not_found");
    }
    let hold = server.created(
        "/api/v1/holds",
        &json!({ "scope": "run", "run_id": "r", "reason": "case 7" }),
    );
    assert_eq!(
        (&hold["active"], &hold["placed_by"]),
        (&json!(true), &json!("local"))
    );
    let held = erase(&server, &id, &because());
    assert_eq!(
        (held.problem(409), &held.json()["scope"]),
        ("legal_hold".into(), &json!("run"))
    );
    let hold_id = hold["hold_id"].as_str().unwrap();
    let release = format!("/api/v1/holds/{hold_id}/release");
    let released = server.created(&release, &json!({ "reason": "closed" }));
    assert_eq!(
        (&released["active"], &released["released_reason"]),
        (&json!(false), &json!("closed"))
    );
    assert_ne!(released["receipt"], hold["receipt"]);
    assert_eq!(
        server.post(&release, &json!({ "reason": "again" })).problem(409),
        "hold_released"
    );
    let listed = server.get("/api/v1/holds").ok();
    assert_eq!(
        (&listed["total"], &listed["items"][0]["hold_id"]),
        (&json!(1), &hold["hold_id"])
    );
    assert_eq!(
        server.get(&format!("/api/v1/holds/{hold_id}")).ok()["active"],
        false
    );
    for bad in [
        json!({ "scope": "run", "reason": "x" }),
        json!({ "scope": "tenant", "run_id": "r", "reason": "x" }),
        json!({ "scope": "universe", "reason": "x" }),
        json!({ "scope": "tenant", "reason": "" }),
    ] {
        assert_eq!(
            server.post("/api/v1/holds", &bad).problem(422),
            "invalid",
            "{bad}"
        );
    }
    for (scope, name) in [("run", "run_id"), ("record", "record_id")] {
        let nobody = json!({ "scope": scope, name: "nosuch", "reason": "x" });
        assert_eq!(server.post("/api/v1/holds", &nobody).problem(404), "not_found");
    }
    let erasure = erase(&server, &id, &because()).ok();
    let kept = erase(
        &server,
        erasure["receipt"]["record_id"].as_str().unwrap(),
        &because(),
    );
    assert_eq!(kept.problem(409), "not_erasable");
}

#[test]
fn only_an_admin_erases_and_holds_and_nobody_elses_records() {
    let keyed = Keyed::new();
    let run = keyed
        .as_("writer", Method::POST, "/api/v1/runs", &json!({ "run_id": "r" }))
        .json();
    let path = format!("/api/v1/records/{}/body", record_id(&run));
    let hold = json!({ "scope": "tenant", "reason": "x" });
    for who in ["reader", "writer", "auditor"] {
        assert_eq!(
            keyed.as_(who, Method::DELETE, &path, &because()).status,
            403,
            "{who}"
        );
        assert_eq!(
            keyed.as_(who, Method::POST, "/api/v1/holds", &hold).status,
            403,
            "{who}"
        );
    }
    assert_eq!(
        keyed
            .as_("foreign", Method::DELETE, &path, &because())
            .problem(404),
        "not_found"
    );
    let erasure = keyed.as_("admin", Method::DELETE, &path, &because());
    assert_eq!(erasure.status, 200, "{}", erasure.text());
    let principal = keyed.noted("admin", "erasure.performed")[0]["principal"].clone();
    assert!(principal.as_str().unwrap().starts_with("key:"));
}

#[test]
fn the_stored_output_of_an_erased_step_is_told_to_nobody_and_the_step_is_not_done_again() {
    let server = TestServer::new();
    server.run("r");
    let step = json!({ "run_id": "r", "step_index": 0, "replay_behavior": "skip", "idempotency_key": "k" });
    let begun = server.post("/api/v1/replay/steps", &step).ok();
    let token = begun["token"].as_str().unwrap();
    let result = server.created(
        &format!("/api/v1/replay/steps/{token}/result"),
        &json!({ "output": { "smokes": true } }),
    );
    let stored = server.post("/api/v1/replay/steps", &step).ok();
    assert_eq!(stored["output"], json!({ "smokes": true }));
    let answer = erase(&server, &record_id(&result), &because()).ok();
    // Who was answered with it said so by its hash; that goes with it.
    let kinds: Vec<&Value> = answer["erased"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["kind"])
        .collect();
    assert_eq!(kinds, ["replay.enforced", "replay.enforced"]);
    let named = |what: &str| {
        let all = answer["remains"].as_array().unwrap();
        all.iter()
            .any(|left| left["what"].as_str().unwrap().contains(what))
    };
    assert!(
        named("not done a second time") && named("Idempotency-Key"),
        "{answer}"
    );
    for _ in 0..2 {
        let again = server.post("/api/v1/replay/steps", &step);
        assert_eq!(again.problem(409), "output_not_kept");
        assert!(again.json()["detail"].as_str().unwrap().contains("was erased"));
    }
    let report = server.get("/api/v1/replay/runs/r").ok();
    assert_eq!((&report["total"], &report["erased"]), (&json!(2), &json!(2)));
}

#[test]
fn a_run_whose_start_is_erased_is_found_by_nothing_that_it_said() {
    let server = TestServer::new();
    let started = server.created(
        "/api/v1/runs",
        &json!({ "run_id": "r", "is_synthetic": true, "synthetic_scenario_id": "s", "seed": 99, "plan": [1] }),
    );
    let total = |path: &str| server.get(path).ok()["total"].clone();
    let synthetic = "/api/v1/logs/llm-runs?run_id=r&is_synthetic=";
    assert_eq!(total(&format!("{synthetic}true")), 1);
    assert_eq!(total("/api/v1/traces?seed=99"), 1);
    assert_eq!(erase(&server, &record_id(&started), &because()).status, 200);
    for path in [
        "/api/v1/traces?seed=99",
        "/api/v1/traces?seed=0",
        "/api/v1/traces?plan_hash=",
        &format!("{synthetic}true"),
        &format!("{synthetic}false"),
    ] {
        assert_eq!(total(path), 0, "{path}");
    }
    assert_eq!(total("/api/v1/traces"), 1, "the run stays");
}

#[test]
fn an_erased_end_is_not_taken_for_another_than_its_header_says() {
    let server = TestServer::new();
    let forget = |run_id: &str, kind: &str| {
        let path = format!("/api/v1/records?run_id={run_id}&kind={kind}");
        let id = server.get(&path).ok()["items"][0]["receipt"]["record_id"].clone();
        assert_eq!(erase(&server, id.as_str().unwrap(), &because()).status, 200);
    };
    let abort = |run_id: &str, reason: &str| {
        let path = format!("/api/v1/runs/{run_id}/abort");
        server.post(&path, &json!({ "reason": reason }))
    };
    server.run("c");
    server.complete("c");
    forget("c", "trace.completed");
    assert_eq!(abort("c", "x").problem(409), "conflict", "it was completed");
    assert_eq!(server.get("/api/v1/traces/c").ok()["status"], "completed");
    server.run("a");
    assert_eq!(abort("a", "disk").status, 201);
    forget("a", "trace.aborted");
    assert_eq!(
        abort("a", "another").ok()["status"],
        "aborted",
        "why, nobody knows any more"
    );
    // The end of a run of spans is the server's: nobody sent one.
    let mut root = span(9, 1);
    root.as_object_mut().unwrap().remove("parentSpanId");
    server.spans(&[root]);
    let spans = "09".repeat(16);
    server.created(&format!("/api/v1/runs/{spans}/seal"), &json!({}));
    assert_eq!(abort(&spans, "x").problem(409), "run_ended");
    forget(&spans, "trace.completed");
    assert_eq!(abort(&spans, "x").problem(409), "run_ended");
}

#[test]
fn an_erased_start_that_nobody_sent_is_not_taken_for_one_that_was() {
    let server = TestServer::new();
    server.spans(&[span(9, 1)]);
    let run_id = "09".repeat(16);
    let path = format!("/api/v1/records?run_id={run_id}&kind=run.started");
    let id = server.get(&path).ok()["items"][0]["receipt"]["record_id"].clone();
    let start = || server.post("/api/v1/runs", &json!({ "run_id": run_id }));
    assert_eq!(start().problem(409), "conflict");
    assert_eq!(erase(&server, id.as_str().unwrap(), &because()).status, 200);
    assert_eq!(start().problem(409), "conflict");
}

/// An erasure without the wait for its answer.
fn erasing(server: &TestServer, runtime: &Runtime, id: &str) -> JoinHandle<u16> {
    let request = Request::builder()
        .method(Method::DELETE)
        .uri(format!("/api/v1/records/{id}/body"))
        .header("host", "localhost:4318")
        .header("content-type", "application/json")
        .body(Body::from(because().to_string()))
        .unwrap();
    let router = server.router.clone();
    runtime.spawn(async move { router.oneshot(request).await.unwrap().status().as_u16() })
}

#[test]
fn erasures_that_wait_keep_nobody_else_waiting_and_leave_the_line_with_their_clients() {
    const LINE_MAX: usize = 32;
    let server = TestServer::new();
    // As `serve` makes it, with fewer threads for what blocks than erasures wait.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .unwrap();
    let ids: Vec<String> = server
        .fill(40)
        .iter()
        .map(|receipt| receipt.record_id.to_string())
        .collect();
    let tenant = server.app.ledger.tenant("default").unwrap();
    let first = runtime.block_on(EraseTurn::take(&tenant)).unwrap();
    let mut waiting: Vec<_> = ids.iter().map(|id| erasing(&server, &runtime, id)).collect();
    let answered = |path: &str| {
        let request = Request::get(path).header("host", "localhost:4318");
        let router = server.router.clone();
        let answer = router.oneshot(request.body(Body::empty()).unwrap());
        let answer = runtime.block_on(async { timeout(Duration::from_secs(5), answer).await });
        answer
            .unwrap_or_else(|_| panic!("{path} waits"))
            .unwrap()
            .status()
    };
    // Who finds the line full is answered; all others wait.
    while waiting.iter().filter(|asked| asked.is_finished()).count() < ids.len() - (LINE_MAX - 1) {
        std::thread::sleep(Duration::from_millis(1));
    }
    for path in ["/healthz", &format!("/api/v1/records/{}", ids[0])] {
        assert_eq!(answered(path), 200);
    }
    let (refused, waits): (Vec<_>, Vec<_>) = waiting.drain(..).partition(JoinHandle::is_finished);
    assert_eq!(waits.len(), LINE_MAX - 1);
    for asked in refused {
        assert_eq!(runtime.block_on(asked).unwrap(), 503);
    }
    for asked in waits {
        asked.abort();
        assert!(runtime.block_on(asked).unwrap_err().is_cancelled());
    }
    drop(first);
    assert_eq!(erase(&server, &ids[0], &because()).status, 200);
    let there = |id: &String| server.get(&format!("/api/v1/records/{id}")).ok()["erased"] != true;
    assert_eq!(
        ids.iter().filter(|id| there(id)).count(),
        ids.len() - 1,
        "nobody else erased"
    );
}
