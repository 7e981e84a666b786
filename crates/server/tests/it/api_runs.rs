use serde_json::{Value, json};

use crate::server::TestServer;
use crate::support::{refused, step};

#[test]
fn a_run_lives_from_start_to_end() {
    let server = TestServer::new();
    let started = server.created(
        "/api/v1/runs",
        &json!({
            "run_id": "r1", "agent_id": "planner", "goal": "find it", "plan": [{ "skill": "search" }],
            "correlation_id": "talk", "parent_run_id": "r0", "source": "SDK", "seed": 7, "incident_id": "inc-1",
            "started_at": "2026-01-02T03:04:00Z", "policy_snapshot_id": "p1", "replay_mode": "strict",
        }),
    );
    assert_eq!(started["run_id"], "r1");
    assert_eq!(started["trace_id"], "trace_r1");
    assert_eq!(started["correlation_id"], "talk");
    assert_eq!(started["receipt"]["leaf_index"], 0);
    assert_eq!(started["receipt"]["tree_size"], 1);
    let stepped = server.created(
        "/api/v1/runs/r1/steps",
        &json!({
            "step_index": 0, "skill_name": "search", "params": { "q": "x" }, "status": "success",
            "outcome_category": "SUCCESS", "cost_cents": 0.25, "duration_ms": 12.5, "retry_count": 1,
            "timestamp": "2026-01-02T03:04:01.1234567Z", "tokens": { "input": 3, "output": 4 },
        }),
    );
    assert_eq!(stepped["trace_id"], "trace_r1");
    assert_eq!(stepped["step_index"], 0);
    let ended = server.created(
        "/api/v1/runs/r1/complete",
        &json!({ "status": "completed", "provider": "acme", "model": "m1", "input_tokens": 10, "output_tokens": 20,
            "cost_cents": 1.5, "metadata": { "k": [1, 2.5] }, "declared_steps": 1 }),
    );
    assert_eq!(ended["status"], "completed");
    assert_eq!(ended["execution_status"], "SUCCEEDED");
    assert_eq!(ended["root_hash"].as_str().unwrap().len(), 64);

    let trace = server.get("/api/v1/traces/r1").ok();
    for (field, value) in [
        ("agent_id", json!("planner")),
        ("goal", json!("find it")),
        ("plan", json!([{ "skill": "search" }])),
        ("correlation_id", json!("talk")),
        ("parent_run_id", json!("r0")),
        ("source", json!("SDK")),
        ("seed", json!(7)),
        ("incident_id", json!("inc-1")),
        ("started_at", json!("2026-01-02T03:04:00.000000Z")),
        ("policy_snapshot_id", json!("p1")),
        ("replay_mode", json!("strict")),
        ("status", json!("completed")),
        ("metadata", json!({ "k": [1, 2.5] })),
        ("provider", json!("acme")),
        ("model", json!("m1")),
        ("input_tokens", json!(10)),
        ("output_tokens", json!(20)),
        ("total_cost_cents", json!(1.5)),
        ("total_cost_usd", json!("0.015")),
        ("total_duration_ms", json!(12.5)),
        ("total_steps", json!(1)),
        ("success_count", json!(1)),
        ("failure_count", json!(0)),
        ("declared_steps", json!(1)),
        ("root_hash", ended["root_hash"].clone()),
        ("record_id", started["receipt"]["record_id"].clone()),
    ] {
        assert_eq!(trace[field], value, "{field}");
    }
    let shown = &trace["steps"][0];
    for (field, value) in [
        ("step_index", json!(0)),
        ("level", json!("INFO")),
        ("params", json!({ "q": "x" })),
        ("retry_count", json!(1)),
        ("cost_cents", json!(0.25)),
        ("duration_ms", json!(12.5)),
        ("source", json!("external")),
        ("timestamp", json!("2026-01-02T03:04:01.123456Z")),
        ("tokens", json!({ "input": 3, "output": 4 })),
        ("outcome_data", Value::Null),
        ("late", json!(false)),
        ("erased", json!(false)),
        ("leaf_index", json!(1)),
        ("record_id", stepped["receipt"]["record_id"].clone()),
    ] {
        assert_eq!(shown[field], value, "{field}");
    }
    assert_eq!(
        server.get("/api/v1/traces/trace_r1").ok(),
        trace,
        "found by either id"
    );
}

#[test]
fn records_say_who_and_when() {
    let server = TestServer::new();
    server.created(
        "/api/v1/runs",
        &json!({ "run_id": "r", "agent_id": "a", "started_at": "2026-01-01T00:00:00+01:00" }),
    );
    server.run("nobody");
    server.step("r", 0, "success");
    let header = |run: &str, at: usize| {
        server.get(&format!("/api/v1/records?run_id={run}")).ok()["items"][at]["header"].clone()
    };
    let started = header("r", 0);
    assert_eq!(started["actor"], json!({ "id": "a", "type": "AGENT" }));
    assert_eq!(started["occurred_at"], "2025-12-31T23:00:00.000000Z");
    assert_eq!(started["recorded_at"], "2026-01-02T03:04:05.000006Z");
    assert_eq!(started["source_component"], "api");
    assert_eq!(started["source_domain"], "ACTIVITY");
    assert_eq!(started["correlation_id"], "r", "the run_id when none is given");
    assert_eq!(header("nobody", 0)["actor"], json!({ "type": "SYSTEM" }));
    let stepped = header("r", 1);
    assert_eq!(stepped["run_seq"], 1);
    assert_eq!(stepped["trace_id"], "trace_r");
    assert_eq!(stepped["actor"], json!({ "id": "a", "type": "AGENT" }));
    assert_eq!(
        stepped["occurred_at"], stepped["recorded_at"],
        "the time of receipt when none is given"
    );
}

#[test]
fn a_run_without_id_is_a_new_run_each_time() {
    let server = TestServer::new();
    let one = server.created("/api/v1/runs", &json!({}));
    let other = server.created("/api/v1/runs", &json!({}));
    assert_ne!(one["run_id"], other["run_id"]);
    let id = one["run_id"].as_str().unwrap();
    assert_eq!((id.len(), &id[14..15]), (36, "7"), "a UUIDv7");
    assert_eq!(one["correlation_id"], one["run_id"]);
    assert_eq!(one["trace_id"], format!("trace_{id}"));
}

#[test]
fn the_same_again_gives_the_first_receipt_and_other_content_a_conflict() {
    let server = TestServer::new();
    let run = json!({ "run_id": "r", "plan": [1.5, { "b": 1, "a": 2 }], "seed": 3 });
    let first = server.created("/api/v1/runs", &run);
    // Another order of members and another form of numbers is the same content.
    let again = server.request(
        axum::http::Method::POST,
        "/api/v1/runs",
        &[("content-type", "application/json")],
        r#"{"seed":3.0,"plan":[15e-1,{"a":2,"b":1}],"run_id":"r"}"#,
    );
    assert_eq!(again.ok(), first);
    assert_eq!(
        server
            .post("/api/v1/runs", &json!({ "run_id": "r", "seed": 4 }))
            .problem(409),
        "conflict"
    );
    // A default that is spelled out was sent: other content.
    assert_eq!(
        server
            .post("/api/v1/runs", &json!({ "run_id": "r" }))
            .problem(409),
        "conflict"
    );

    let first = server.step("r", 0, "success");
    assert_eq!(
        server.post("/api/v1/runs/r/steps", &step(0, "success")).ok(),
        first
    );
    let conflict = server.post("/api/v1/runs/r/steps", &step(0, "failure"));
    assert_eq!(conflict.problem(409), "conflict");
    assert_eq!(
        conflict.json()["receipt"],
        first["receipt"],
        "a conflict shows what is there"
    );
    let size = server.tree_size();
    let first = server.complete("r");
    assert_eq!(
        server
            .post("/api/v1/runs/r/complete", &json!({ "status": "completed" }))
            .ok(),
        first
    );
    let other = server.post("/api/v1/runs/r/complete", &json!({ "status": "failed" }));
    assert_eq!(other.problem(409), "conflict");
    assert_eq!(
        server.post("/api/v1/runs/r/steps", &step(0, "success")).status,
        200,
        "a known step, also after the end"
    );
    assert_eq!(server.tree_size(), size + 2, "the end, and nothing else");
}

#[test]
fn a_run_ends_once() {
    let server = TestServer::new();
    server.run("c");
    server.complete("c");
    assert_eq!(
        server
            .post("/api/v1/runs/c/steps", &step(1, "success"))
            .problem(409),
        "run_ended"
    );
    assert_eq!(
        server
            .post("/api/v1/runs/c/abort", &json!({ "reason": "x" }))
            .problem(409),
        "conflict"
    );
    server.run("a");
    let first = server.created("/api/v1/runs/a/abort", &json!({ "reason": "disk" }));
    assert_eq!(
        (first["status"].as_str(), first["execution_status"].as_str()),
        (Some("aborted"), Some("ABORTED"))
    );
    assert_eq!(
        server
            .post("/api/v1/runs/a/abort", &json!({ "reason": "disk" }))
            .ok(),
        first
    );
    assert_eq!(
        server
            .post("/api/v1/runs/a/abort", &json!({ "reason": "other" }))
            .problem(409),
        "conflict"
    );
    let complete = server.post("/api/v1/runs/a/complete", &json!({ "status": "completed" }));
    assert_eq!(complete.problem(409), "run_ended");
    assert_eq!(server.get("/api/v1/traces/a").ok()["abort_reason"], "disk");
    server.run("t");
    let body = json!({ "status": "failed", "termination_reason": "timeout" });
    assert_eq!(
        server.created("/api/v1/runs/t/complete", &body)["execution_status"],
        "TIMEOUT"
    );
}

#[test]
fn nothing_is_written_of_an_unknown_run() {
    let server = TestServer::new();
    assert_eq!(
        server
            .post("/api/v1/runs/x/steps", &step(0, "success"))
            .problem(404),
        "not_found"
    );
    assert_eq!(
        server
            .post("/api/v1/runs/x/complete", &json!({ "status": "failed" }))
            .problem(404),
        "not_found"
    );
    assert_eq!(
        server
            .post("/api/v1/runs/x/abort", &json!({ "reason": "r" }))
            .problem(404),
        "not_found"
    );
    assert_eq!(server.get("/api/v1/traces/x").problem(404), "not_found");
    assert_eq!(server.tree_size(), 0);
}

#[test]
fn a_run_keeps_to_the_rules_of_its_fields() {
    let server = TestServer::new();
    let long = "x".repeat(257);
    for (body, field) in [
        (json!({ "run_id": "" }), "run_id"),
        (json!({ "run_id": long }), "run_id"),
        (json!({ "run_id": "a\nb" }), "run_id"),
        (json!({ "run_id": 7 }), "run_id"),
        (json!({ "agent_id": "" }), "agent_id"),
        (json!({ "correlation_id": "\u{7f}" }), "correlation_id"),
        (json!({ "parent_run_id": long }), "parent_run_id"),
        (json!({ "incident_id": "" }), "incident_id"),
        (json!({ "replay_mode": "" }), "replay_mode"),
        (json!({ "replay_attempt_id": "" }), "replay_attempt_id"),
        (
            json!({ "replay_artifact_version": "" }),
            "replay_artifact_version",
        ),
        (json!({ "policy_snapshot_id": "" }), "policy_snapshot_id"),
        (json!({ "source": "api" }), "source"),
        (json!({ "is_synthetic": true }), "synthetic_scenario_id"),
        (json!({ "synthetic_scenario_id": "s" }), "synthetic_scenario_id"),
        (
            json!({ "is_synthetic": false, "synthetic_scenario_id": "s" }),
            "synthetic_scenario_id",
        ),
        (json!({ "is_synthetic": "yes" }), "is_synthetic"),
        (json!({ "plan": {} }), "plan"),
        (json!({ "plan": "x" }), "plan"),
        (json!({ "plan": vec![0; 10_001] }), "plan"),
        (json!({ "seed": 1.5 }), "seed"),
        (json!({ "seed": "1" }), "seed"),
        (json!({ "goal": "g".repeat(65_537) }), "goal"),
        (json!({ "started_at": "yesterday" }), "started_at"),
        (json!({ "started_at": "2026-01-01T00:00:00" }), "started_at"),
        (json!({ "frozen_timestamp": 5 }), "frozen_timestamp"),
        (json!({ "colour": "red" }), "colour"),
        (json!([]), "body"),
    ] {
        refused(&server.post("/api/v1/runs", &body), field);
    }
    assert_eq!(server.tree_size(), 0, "nothing of it is written");
    server.created(
        "/api/v1/runs",
        &json!({ "run_id": "x".repeat(256), "plan": [], "is_synthetic": false }),
    );
    server.created(
        "/api/v1/runs",
        &json!({ "is_synthetic": true, "synthetic_scenario_id": "s", "source": "SYNTHETIC" }),
    );
    server.created(
        "/api/v1/runs",
        &json!({ "run_id": "ä / ? #", "agent_id": null, "plan": null }),
    );
    server.step("%C3%A4%20%2F%20%3F%20%23", 0, "success");
}

#[test]
fn integers_that_readers_would_not_agree_on_are_refused() {
    let server = TestServer::new();
    for body in [
        r#"{"seed":9007199254740992}"#,
        r#"{"seed":-9007199254740992}"#,
        r#"{"seed":1,"seed":1}"#,
        r#"{"plan":[1e400]}"#,
        r#"{"goal":"\ud800"}"#,
    ] {
        let headers = [("content-type", "application/json")];
        let answer = server.request(axum::http::Method::POST, "/api/v1/runs", &headers, body);
        assert_eq!(answer.problem(422), "invalid", "{body}");
    }
    let headers = [("content-type", "application/json")];
    let cut = server.request(axum::http::Method::POST, "/api/v1/runs", &headers, "{");
    assert_eq!(cut.problem(400), "malformed");
}

#[test]
fn a_step_keeps_to_the_rules_of_its_fields() {
    let server = TestServer::new();
    server.run("r");
    let long = "x".repeat(257);
    for (field, bad) in [
        ("step_index", json!(-1)),
        ("step_index", json!(2_147_483_648_u64)),
        ("step_index", json!(1e30)),
        ("step_index", json!(0.5)),
        ("step_index", json!("0")),
        ("step_index", Value::Null),
        ("skill_name", json!("")),
        ("skill_name", json!(long)),
        ("skill_name", json!("a\tb")),
        ("skill_name", Value::Null),
        ("skill_id", json!("")),
        ("status", json!("ok")),
        ("status", json!("SUCCESS")),
        ("status", Value::Null),
        ("params", json!([])),
        ("params", json!("x")),
        ("params", json!(1)),
        ("outcome_category", json!("")),
        ("outcome_code", json!("")),
        ("cost_cents", json!(-0.01)),
        ("cost_cents", json!("1")),
        ("cost_cents", json!(1e300)),
        ("duration_ms", json!(-1)),
        ("duration_ms", json!("1")),
        ("retry_count", json!(-1)),
        ("retry_count", json!(1.5)),
        ("retry_count", json!(4_294_967_296_u64)),
        ("timestamp", json!("2026-02-30T00:00:00Z")),
        ("source", json!("otlp")),
        ("idempotency_key", json!(long)),
        ("replay_behavior", json!("maybe")),
        ("input_hash", json!("")),
        ("output_hash", json!(long)),
        ("tokens", json!(-1)),
        ("tokens", json!({ "input": -1 })),
        ("tokens", json!({ "input": 1.5 })),
        ("tokens", json!("many")),
        ("colour", json!(1)),
    ] {
        let mut body = step(0, "success");
        body[field] = bad;
        refused(&server.post("/api/v1/runs/r/steps", &body), field);
    }
    for missing in ["step_index", "skill_name", "status"] {
        let mut body = step(0, "success");
        body.as_object_mut().unwrap().remove(missing);
        assert_eq!(server.post("/api/v1/runs/r/steps", &body).problem(422), "invalid");
    }
    assert_eq!(server.tree_size(), 1, "nothing of it is written");
    server.created("/api/v1/runs/r/steps", &json!({
        "step_index": 2_147_483_647, "skill_name": "s", "status": "skipped", "cost_cents": 0, "tokens": 5,
        "source": "replay", "replay_behavior": "check", "rng_state_before": [1, 2], "outcome_data": "text",
    }));
}

#[test]
fn what_a_step_leaves_out_has_a_default_and_its_level_follows_from_its_status() {
    let server = TestServer::new();
    server.run("r");
    for (index, status) in ["success", "failure", "retry", "skipped"].into_iter().enumerate() {
        server.step("r", u32::try_from(index).unwrap(), status);
    }
    let trace = server.get("/api/v1/traces/r").ok();
    let column = |field: &str| -> Vec<Value> {
        trace["steps"]
            .as_array()
            .unwrap()
            .iter()
            .map(|step| step[field].clone())
            .collect()
    };
    assert_eq!(column("level"), ["INFO", "ERROR", "WARN", "INFO"]);
    assert_eq!(
        column("outcome_category"),
        ["SUCCESS", "FAILURE", "FAILURE", "SUCCESS"]
    );
    assert_eq!(column("params"), vec![json!({}); 4]);
    assert_eq!(column("cost_cents"), vec![json!(0); 4]);
    assert_eq!(
        (
            &trace["success_count"],
            &trace["failure_count"],
            &trace["total_steps"]
        ),
        (&json!(1), &json!(1), &json!(4))
    );
}

#[test]
fn an_end_keeps_to_the_rules_of_its_fields() {
    let server = TestServer::new();
    server.run("r");
    for (field, bad) in [
        ("status", json!("aborted")),
        ("status", json!("running")),
        ("status", json!("weird")),
        ("status", Value::Null),
        ("provider", json!("")),
        ("model", json!("")),
        ("input_tokens", json!(-1)),
        ("output_tokens", json!(-1)),
        ("input_tokens", json!(0.5)),
        ("cost_cents", json!(-1)),
        ("metadata", json!([])),
        ("declared_steps", json!(-1)),
        ("completed_at", json!("now")),
        ("termination_reason", json!("x".repeat(65_537))),
        ("reason", json!("x")),
    ] {
        let mut body = json!({ "status": "completed" });
        body[field] = bad;
        refused(&server.post("/api/v1/runs/r/complete", &body), field);
    }
    refused(
        &server.post("/api/v1/runs/r/abort", &json!({ "reason": " " })),
        "reason",
    );
    assert_eq!(
        server.post("/api/v1/runs/r/abort", &json!({})).problem(422),
        "invalid"
    );
    assert_eq!(server.tree_size(), 1, "nothing of it is written");
}

#[test]
fn steps_stand_in_the_order_of_their_index() {
    let server = TestServer::new();
    server.run("r");
    for index in [4, 1, 5, 2] {
        server.step("r", index, "success");
    }
    let trace = server.get("/api/v1/traces/r").ok();
    let order: Vec<u64> = trace["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["step_index"].as_u64().unwrap())
        .collect();
    assert_eq!(order, [1, 2, 4, 5]);
    assert_eq!(trace["root_hash"], Value::Null, "none until the run ends");
}

#[test]
fn a_step_with_an_empty_idempotency_key_has_none() {
    let server = TestServer::new();
    server.run("r");
    let mut body = step(0, "success");
    body["idempotency_key"] = json!("");
    let made = server.created("/api/v1/runs/r/steps", &body);
    let id = made["receipt"]["record_id"].as_str().unwrap();
    let record = server.get(&format!("/api/v1/records/{id}")).ok();
    assert_eq!(record["body"]["step"].get("idempotency_key"), None);
}

#[test]
fn a_step_is_found_by_its_idempotency_key() {
    let server = TestServer::new();
    server.run("r");
    server.created("/api/v1/runs/r/steps", &json!({
        "step_index": 3, "skill_name": "pay", "status": "success", "idempotency_key": "k 1", "output_hash": "oh",
        "outcome_data": { "paid": 1.25 },
    }));
    let found = server.get("/api/v1/steps?idempotency_key=k%201").ok();
    for (field, value) in [
        ("run_id", json!("r")),
        ("trace_id", json!("trace_r")),
        ("step_index", json!(3)),
        ("status", json!("success")),
        ("output_hash", json!("oh")),
        ("outcome_data", json!({ "paid": 1.25 })),
        ("leaf_index", json!(1)),
    ] {
        assert_eq!(found[field], value, "{field}");
    }
    assert_eq!(
        server.get("/api/v1/steps?idempotency_key=k").problem(404),
        "not_found"
    );
    assert_eq!(server.get("/api/v1/steps").problem(400), "bad_parameter");
    assert_eq!(
        server.get("/api/v1/steps?idempotency_key=k&x=1").problem(400),
        "bad_parameter"
    );
}
